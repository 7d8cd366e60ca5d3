// rpln runs bundles of rpln-export in C++17, with ONNX Runtime and nlohmann-json. It consists of headers only.
#pragma once

#include "rpln/batching.hpp"
#include "rpln/errors.hpp"
#include "rpln/generation/generator.hpp"
#include "rpln/generation/options.hpp"
#include "rpln/generation/text_stream.hpp"
#include "rpln/json.hpp"
#include "rpln/json_lines.hpp"
#include "rpln/manifest.hpp"
#include "rpln/pipeline.hpp"
#include "rpln/session.hpp"
#include "rpln/tensors.hpp"
#include "rpln/tokenizer/encoding.hpp"
#include "rpln/tokenizer/tokenizer.hpp"
