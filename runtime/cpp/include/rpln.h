// The C interface of rpln, for languages that have none with C++. Texts and answers are JSON in UTF-8.
//
//   rpln_pipeline* tag = NULL;
//   if (rpln_open("folder", "{}", &tag) != RPLN_OK) fail(rpln_last_error());
//   char* answer = NULL;
//   if (rpln_run(tag, "\"The dog barked.\"", "{}", &answer) != RPLN_OK) fail(rpln_last_error());
//   rpln_free(answer);
//   rpln_close(tag);
//
// Threads may share a pipeline.
#ifndef RPLN_H
#define RPLN_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define RPLN_API __declspec(dllexport)
#else
#define RPLN_API __attribute__((visibility("default")))
#endif

// What a call returns: the exit codes of the command line.
typedef enum rpln_status {
  RPLN_OK = 0,
  RPLN_ERROR = 1,           // anything that has no code of its own
  RPLN_INPUT_ERROR = 3,     // an input or option that the bundle does not take
  RPLN_MANIFEST_ERROR = 4,  // a bundle that is incomplete, altered, or of another version
  RPLN_PROVIDER_ERROR = 5   // the execution provider asked for would not run
} rpln_status;

typedef struct rpln_pipeline rpln_pipeline;

// Opens the bundle in `folder`. `options` is an object with "provider", "threads", "batch_size" and "verify", all of which
// may be left out, and the options of the bundle's task; NULL stands for none. On success the pipeline is put in
// `*pipeline`, to be closed with rpln_close.
RPLN_API rpln_status rpln_open(const char* folder, const char* options, rpln_pipeline** pipeline);

// Answers `inputs`: a text, an object with the fields of the task, or a list of these. `options`, those of the task, are
// for this call alone; NULL stands for none. On success the answer is put in `*answer`, to be freed with rpln_free.
RPLN_API rpln_status rpln_run(const rpln_pipeline* pipeline, const char* inputs, const char* options, char** answer);

// Why the last call of this thread failed: valid until its next call.
RPLN_API const char* rpln_last_error(void);

RPLN_API void rpln_free(char* answer);
RPLN_API void rpln_close(rpln_pipeline* pipeline);

#ifdef __cplusplus
}
#endif

#endif
