// The C interface of rpln, for languages that cannot call C++. Inputs, options and answers are JSON in UTF-8.
//
//   rpln_pipeline* tag = NULL;
//   if (rpln_open("folder", "{}", &tag) != RPLN_OK) fail(rpln_last_error());
//   char* answer = NULL;
//   if (rpln_run(tag, "\"The dog barked.\"", "{}", &answer) != RPLN_OK) fail(rpln_last_error());
//   rpln_free(answer);
//   rpln_close(tag);
//
// Several threads may use a pipeline at once.
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

// What a call returns. The numbers are the exit codes of the command line.
typedef enum rpln_status {
  RPLN_OK = 0,
  RPLN_ERROR = 1,           // an error without a code of its own
  RPLN_INPUT_ERROR = 3,     // an input or an option that the bundle does not take, or an argument that is NULL
  RPLN_MANIFEST_ERROR = 4,  // a bundle that is incomplete, altered, or of another version
  RPLN_PROVIDER_ERROR = 5   // the execution provider that was asked for is not there, or would not run the graph
} rpln_status;

typedef struct rpln_pipeline rpln_pipeline;

// Opens the bundle in `folder`. `options` is an object with the options of the bundle's task, and with "provider",
// "threads", "batch_size" and "verify"; each may be left out, and NULL stands for no options. On success the pipeline
// is in `*pipeline`; close it with rpln_close.
RPLN_API rpln_status rpln_open(const char* folder, const char* options, rpln_pipeline** pipeline);

// Answers `inputs`, which is a text, an object with the fields of the task, or a list of these. `options` are options
// of the task for this call alone; NULL stands for none. On success the answer is in `*answer`; free it with rpln_free.
RPLN_API rpln_status rpln_run(const rpln_pipeline* pipeline, const char* inputs, const char* options, char** answer);

// Returns why the last call in this thread failed, or an empty text. It is valid until the thread's next call.
RPLN_API const char* rpln_last_error(void);

// Frees an answer.
RPLN_API void rpln_free(char* answer);

// Closes a pipeline.
RPLN_API void rpln_close(rpln_pipeline* pipeline);

#ifdef __cplusplus
}
#endif

#endif
