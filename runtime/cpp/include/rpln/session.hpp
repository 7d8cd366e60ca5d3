// A session runs one graph of a bundle on one execution provider: tensors in, tensors out.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/inputs.hpp"
#include "rpln/json.hpp"
#include "rpln/limits.hpp"
#include "rpln/manifest.hpp"
#include "rpln/tensors.hpp"

namespace rpln {

// How a bundle is opened.
struct SessionOptions {
  // A row of detail::providers. Empty: the provider that the export chose by measuring, or "cpu" where none was
  // measured.
  std::string provider;
  // How many threads compute an operator. None: as the export measured, or else as many as there are cores.
  std::optional<std::int64_t> threads;
  // Whether idle threads wait in a busy loop. None: as the export measured, or else ONNX Runtime's default.
  std::optional<bool> spinning;
  // The variant of the graph to run. Empty: the first graph of the bundle.
  std::string variant;
  // Whether the form of the graph that was rewritten for the provider runs, where the bundle has one. Otherwise the
  // graph in standard operators runs.
  bool rewritten = true;
  // Whether the SHA-256 of every file of the bundle is checked first.
  bool verify = true;
};

// An output of a graph. Its values are fp32, whatever type the graph has.
class Output {
 public:
  explicit Output(Ort::Value value) : value_(std::move(value)) {
    const auto info = value_.GetTensorTypeAndShapeInfo();
    shape_ = info.GetShape();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
      data_ = value_.GetTensorData<float>();
      return;
    }
    const auto* halves = value_.GetTensorData<Ort::Float16_t>();
    converted_.reserve(info.GetElementCount());
    for (std::size_t at = 0; at < info.GetElementCount(); ++at) converted_.push_back(halves[at].ToFloat());
    data_ = converted_.data();
  }

  [[nodiscard]] const std::vector<std::int64_t>& shape() const { return shape_; }
  [[nodiscard]] const float* data() const { return data_; }

 private:
  Ort::Value value_;
  std::vector<std::int64_t> shape_;
  std::vector<float> converted_;
  const float* data_ = nullptr;
};

namespace detail {

inline void append_cuda(Ort::SessionOptions& options) {
  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> cuda(
      made, api.ReleaseCUDAProviderOptions);
  // The default sums squares in fp16, which overflows where the residual stream passes 256.
  const char* key = "enable_skip_layer_norm_strict_mode";
  const char* value = "1";
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda.get(), &key, &value, 1));
  options.AppendExecutionProvider_CUDA_V2(*cuda);
}

inline void append_tensorrt(Ort::SessionOptions& options) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorRTProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&made));
  const std::unique_ptr<OrtTensorRTProviderOptionsV2, decltype(api.ReleaseTensorRTProviderOptions)> tensorrt(
      made, api.ReleaseTensorRTProviderOptions);
  options.AppendExecutionProvider_TensorRT_V2(*tensorrt);
  // TensorRT takes every node of an encoder, so a node that falls back to the CPU is an error.
  options.AddConfigEntry("session.disable_cpu_ep_fallback", "1");
}

// The CPU's provider is always there, so there is nothing to append.
inline void append_nothing(Ort::SessionOptions&) {}

// An execution provider: its name here and in ONNX Runtime, and what adds it to the options of a session. The same
// names are in rpln_runtime/engines/providers.py.
struct Provider {
  std::string_view name;
  std::string_view onnxruntime_name;
  void (*append)(Ort::SessionOptions&);
};

inline constexpr std::array<Provider, 3> providers{{
    {"cpu", "CPUExecutionProvider", append_nothing},
    {"cuda", "CUDAExecutionProvider", append_cuda},
    {"onnxruntime-tensorrt", "TensorrtExecutionProvider", append_tensorrt},
}};

// The names of the providers that only the Python runtime has.
inline constexpr std::array<std::string_view, 3> python_providers{"tensorrt", "tensorrt-rtx", "openvino"};

inline const Provider* find_provider(std::string_view name) {
  const auto has_name = [&](const Provider& row) { return row.name == name; };
  const auto* found = std::find_if(providers.begin(), providers.end(), has_name);
  return found == providers.end() ? nullptr : found;
}

inline const Provider& provider_from_name(const std::string& name) {
  if (const Provider* row = find_provider(name)) {
    const std::vector<std::string> available = Ort::GetAvailableProviders();
    if (std::find(available.begin(), available.end(), row->onnxruntime_name) != available.end()) return *row;
    throw ProviderError("provider " + in_quotes(name) + " (" + std::string(row->onnxruntime_name) +
                        ") is not in the onnxruntime " + Ort::GetVersionString() + " that is linked, which has " +
                        join(available) + ". Link one that has it.");
  }
  std::vector<std::string> known;
  for (const Provider& row : providers) known.emplace_back(row.name);
  if (std::find(python_providers.begin(), python_providers.end(), name) != python_providers.end()) {
    throw ProviderError("only the Python runtime has the provider " + in_quotes(name) + ". In C++, choose one of " +
                        join(known) + ".");
  }
  throw ProviderError("unknown provider " + in_quotes(name) + ": expected one of " + join(known) + ".");
}

// The environment of ONNX Runtime, of which a process has one.
inline Ort::Env& environment() {
  static Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "rpln");
  return env;
}

inline Ort::Session open_onnx(const std::filesystem::path& path, const std::string& provider,
                              const std::optional<std::int64_t>& threads, const std::optional<bool>& spinning) {
  const Provider& row = provider_from_name(provider);
  try {
    Ort::SessionOptions options;
    if (threads) options.SetIntraOpNumThreads(static_cast<int>(*threads));
    if (spinning) options.AddConfigEntry("session.intra_op.allow_spinning", *spinning ? "1" : "0");
    row.append(options);
    return {environment(), path.c_str(), options};
  } catch (const Ort::Exception& error) {
    if (row.name == "cpu") {
      throw ManifestError("onnxruntime " + Ort::GetVersionString() + " cannot load " + path.string() + ": " +
                          error.what() + ". Export the checkpoint again, or link a newer onnxruntime.");
    }
    throw ProviderError(std::string(row.onnxruntime_name) + " cannot run " + path.string() + ": " + error.what() +
                        ". Check the device and its driver (rpln doctor), or choose provider \"cpu\".");
  }
}

inline std::string dtype_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return "bfloat16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return "int64";
    default: return "element type " + std::to_string(type);
  }
}

// The dtype and the shape of an input or output; -1 for an axis that the graph leaves open, and none for no shape.
struct GraphTensor {
  std::string dtype;
  std::optional<std::vector<std::int64_t>> shape;
};

// A graph's inputs or outputs, by name.
using Signature = std::map<std::string, GraphTensor>;

// Whether a graph whose sizes are `found` may have the shape that the manifest has `stated`.
inline bool has_shape(const std::vector<Dimension>& stated, const std::vector<std::int64_t>& found) {
  if (stated.size() != found.size()) return false;
  for (std::size_t axis = 0; axis < found.size(); ++axis) {
    const auto* size = std::get_if<std::int64_t>(&stated[axis]);
    if (found[axis] >= 0 && (!size || *size != found[axis])) return false;
  }
  return true;
}

// Checks that a side of the graph in the file has the names, dtypes and shapes of the manifest, which everything else
// relies on. An axis that the file leaves open is compared when the graph runs.
inline void check_side(const std::string& path, const char* side, const Signature& found,
                       const std::vector<TensorSpec>& specs, bool exactly) {
  std::map<std::string, std::string> dtypes;
  for (const auto& [name, tensor] : found) dtypes[name] = tensor.dtype;
  std::map<std::string, std::string> expected;
  for (const TensorSpec& spec : specs) expected[spec.name] = spec.dtype;
  const bool covered = std::includes(dtypes.begin(), dtypes.end(), expected.begin(), expected.end());
  if (!covered || (exactly && dtypes.size() != expected.size())) {
    throw ManifestError(path + " has the " + side + " " + shown(dtypes) + ", the manifest says " + shown(expected) +
                        ". Export the checkpoint again.");
  }
  for (const TensorSpec& spec : specs) {
    const auto& shape = found.at(spec.name).shape;
    if (!shape || has_shape(spec.shape, *shape)) continue;
    throw ManifestError(path + " has " + in_quotes(spec.name) + " of the shape " + shown(*shape) +
                        " (-1 is any size), the manifest says [" + names_of_axes(spec.shape) +
                        "]. Export the checkpoint again.");
  }
}

// Checks the shapes of what a graph gave, which the post-processing reads by the manifest.
class OutputsCheck {
 public:
  OutputsCheck(const Feeds& feeds, const Graph& graph, const Manifest& manifest) : graph_(graph) {
    for (const TensorSpec& spec : graph.inputs) {
      for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
        if (const auto* name = std::get_if<std::string>(&spec.shape[axis])) {
          sizes_[*name] = feeds.at(spec.name).shape[axis];
        }
      }
    }
    const auto batch = sizes_.find(std::string(names::batch));
    const auto choices = sizes_.find(std::string(names::choices));
    if (batch != sizes_.end() && choices != sizes_.end()) {
      sizes_[std::string(names::batch_choices)] = batch->second * choices->second;
    }
    const auto ids = feeds.find("input_ids");
    if (manifest.mask_token_id && ids != feeds.end()) {
      const auto& values = std::get<std::vector<std::int64_t>>(ids->second.values);
      sizes_[std::string(names::masked_tokens)] = std::count(values.begin(), values.end(), *manifest.mask_token_id);
    }
  }

  // Throws ManifestError for a shape that is not as the manifest says.
  void check(const TensorSpec& spec, const std::vector<std::int64_t>& shape) const {
    bool fits = shape.size() == spec.shape.size();
    std::vector<std::string> expected;
    for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
      const auto* name = std::get_if<std::string>(&spec.shape[axis]);
      const auto known = name ? sizes_.find(*name) : sizes_.end();
      const bool open = name && known == sizes_.end();
      const std::int64_t size = open ? -1 : name ? known->second : std::get<std::int64_t>(spec.shape[axis]);
      expected.push_back(open ? *name : std::to_string(size));
      fits = fits && (open || shape[axis] == size);
    }
    if (fits) return;
    throw ManifestError(graph_.path + " gave " + in_quotes(spec.name) + " the shape " + shown(shape) +
                        ", but by the manifest it is [" + join(expected) + "]. Export the checkpoint again.");
  }

 private:
  const Graph& graph_;
  std::map<std::string, std::int64_t> sizes_;
};

}  // namespace detail

// A graph that is loaded and ready to run. Several threads may use it at once.
class Session {
 public:
  // Opens a graph of the bundle in `folder`. Throws ManifestError for a bundle that is incomplete, altered or of
  // another version, ProviderError when the provider that was asked for would not run, and InputError for an option out
  // of range.
  explicit Session(const std::filesystem::path& folder, const SessionOptions& options = {})
      : Session(folder, std::make_shared<const Manifest>(read_manifest(folder, options.verify)), options) {}

  // The same for a bundle whose manifest has been read and checked already.
  Session(const std::filesystem::path& folder, std::shared_ptr<const Manifest> manifest, const SessionOptions& options)
      : manifest_(std::move(manifest)),
        graph_(graph_from_variant(*manifest_, options.variant)),
        provider_(provider_from(*manifest_, options)),
        onnx_(open(folder, options)) {
    const std::string& path = graph_.path_for(provider_);
    detail::check_side(path, "inputs", signature(true), graph_.inputs, true);
    detail::check_side(path, "outputs", signature(false), graph_.outputs, false);
  }

  [[nodiscard]] const Manifest& manifest() const { return *manifest_; }
  [[nodiscard]] const Graph& graph() const { return graph_; }
  [[nodiscard]] const std::string& provider() const { return provider_; }

  // ONNX Runtime's own session, for callers that bind memory.
  [[nodiscard]] Ort::Session& onnx_session() const { return onnx_; }

  // Runs the graph on `feeds`, which has a tensor for every input, and returns the `outputs` of these names, in this
  // order. Throws InputError, before the graph runs, for anything that the manifest does not allow, ProviderError where
  // ONNX Runtime fails, and ManifestError for an output that is not as the manifest says.
  [[nodiscard]] std::vector<Output> run(const Feeds& feeds, const std::vector<std::string>& outputs) const {
    detail::FeedsCheck(feeds, graph_, *manifest_).run();
    std::vector<const char*> input_names;
    std::vector<Ort::Value> inputs;
    std::vector<std::vector<Ort::Float16_t>> halves;
    for (const TensorSpec& spec : graph_.inputs) {
      input_names.push_back(spec.name.c_str());
      inputs.push_back(value_from_tensor(feeds.at(spec.name), spec.dtype, halves));
    }
    std::vector<const char*> output_names;
    for (const std::string& name : outputs) output_names.push_back(output_from_name(name).name.c_str());
    std::vector<Output> found;
    guarded([&] {
      for (Ort::Value& value : onnx_.Run(Ort::RunOptions(), input_names.data(), inputs.data(), inputs.size(),
                                         output_names.data(), output_names.size())) {
        found.emplace_back(std::move(value));
      }
    });
    const detail::OutputsCheck check(feeds, graph_, *manifest_);
    for (std::size_t at = 0; at < found.size(); ++at) check.check(output_from_name(outputs[at]), found[at].shape());
    return found;
  }

  // Runs the graph with the inputs and outputs that are bound. Throws ProviderError where ONNX Runtime fails.
  void run_bound(const Ort::IoBinding& binding) const {
    guarded([&] { onnx_.Run(Ort::RunOptions(), binding); });
  }

 private:
  // Calls `run` and turns an exception of ONNX Runtime's into one of this library's.
  template <class Run>
  void guarded(Run&& run) const {
    try {
      run();
    } catch (const Ort::Exception& error) {
      throw ProviderError("ONNX Runtime failed to run " + graph_.path + " (" + error.what() +
                          "). Check the bundle (rpln validate), and the free memory.");
    }
  }

  static const Graph& graph_from_variant(const Manifest& manifest, const std::string& variant) {
    if (variant.empty()) return manifest.graphs.front();
    std::vector<std::string> known;
    for (const Graph& graph : manifest.graphs) {
      if (graph.variant == variant) return graph;
      known.push_back(graph.variant);
    }
    throw ManifestError("the bundle has no variant " + detail::in_quotes(variant) + ": expected one of " +
                        detail::join(known) + ".");
  }

  // The export may have chosen OpenVINO's own runtime, which only the Python runtime has: then it is the CPU here.
  static std::string provider_from(const Manifest& manifest, const SessionOptions& options) {
    if (!options.provider.empty()) return options.provider;
    const bool measured = manifest.optimization && detail::find_provider(manifest.optimization->provider);
    return measured ? manifest.optimization->provider : "cpu";
  }

  [[nodiscard]] Ort::Session open(const std::filesystem::path& folder, const SessionOptions& options) const {
    if (options.threads && (*options.threads < 1 || *options.threads > limits::most_threads)) {
      throw InputError("threads is " + std::to_string(*options.threads) + ", expected an integer, 1 to " +
                       std::to_string(limits::most_threads) + ".");
    }
    if (provider_ == "cpu" && manifest_->precision == "bfloat16") {
      throw ProviderError(folder.string() +
                          " computes in bf16, for which ONNX Runtime's CPU provider has no kernels. Choose provider "
                          "\"cuda\" on a machine with a GPU, or export the checkpoint in fp32.");
    }
    std::optional<std::int64_t> threads = options.threads;
    std::optional<bool> spinning = options.spinning;
    if (const auto& measured = manifest_->optimization; measured && measured->provider == provider_) {
      if (!threads) threads = measured->threads;
      if (!spinning) spinning = measured->spinning;
    }
    const std::string& path = options.rewritten ? graph_.path_for(provider_) : graph_.path;
    return detail::open_onnx(folder / path, provider_, threads, spinning);
  }

  [[nodiscard]] detail::Signature signature(bool inputs) const {
    detail::Signature found;
    const Ort::AllocatorWithDefaultOptions allocator;
    const std::size_t count = inputs ? onnx_.GetInputCount() : onnx_.GetOutputCount();
    for (std::size_t at = 0; at < count; ++at) {
      const auto name =
          inputs ? onnx_.GetInputNameAllocated(at, allocator) : onnx_.GetOutputNameAllocated(at, allocator);
      const auto info = inputs ? onnx_.GetInputTypeInfo(at) : onnx_.GetOutputTypeInfo(at);
      found[name.get()] = tensor_from_info(info);
    }
    return found;
  }

  static detail::GraphTensor tensor_from_info(const Ort::TypeInfo& info) {
    if (info.GetONNXType() != ONNX_TYPE_TENSOR) return {"no tensor", std::nullopt};
    const auto tensor = info.GetTensorTypeAndShapeInfo();
    const std::string dtype = detail::dtype_name(tensor.GetElementType());
    // ONNX Runtime has no axes for an unknown rank.
    if (tensor.GetDimensionsCount() == 0) return {dtype, std::nullopt};
    return {dtype, tensor.GetShape()};
  }

  [[nodiscard]] const TensorSpec& output_from_name(const std::string& name) const {
    if (const TensorSpec* spec = graph_.output(name)) return *spec;
    std::vector<std::string> known;
    for (const TensorSpec& spec : graph_.outputs) known.push_back(spec.name);
    throw InputError("unknown output " + detail::in_quotes(name) + ": the graph gives " + detail::join(known) + ".");
  }

  // Returns a view of the tensor. Where the graph takes fp16, it is a view of the converted values, which `halves`
  // keeps.
  static Ort::Value value_from_tensor(const Tensor& tensor, const std::string& dtype,
                                      std::vector<std::vector<Ort::Float16_t>>& halves) {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto wrap = [&](const auto& values) {
      using Element = typename std::decay_t<decltype(values)>::value_type;
      // ONNX Runtime does not change inputs, although it takes a pointer that is not const.
      auto* data = const_cast<Element*>(values.data());
      return Ort::Value::CreateTensor<Element>(memory, data, values.size(), tensor.shape.data(), tensor.shape.size());
    };
    if (dtype != "float16") return std::visit(wrap, tensor.values);
    const auto& floats = std::get<std::vector<float>>(tensor.values);
    return wrap(halves.emplace_back(floats.begin(), floats.end()));
  }

  std::shared_ptr<const Manifest> manifest_;
  const Graph& graph_;
  std::string provider_;
  mutable Ort::Session onnx_;  // its Run is not const, but several threads may call it
};

}  // namespace rpln
