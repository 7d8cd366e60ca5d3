// The names of axes and tensors. tests/cpp/test_tasks.py compares them with those of rpln_runtime/tasks.py.
#pragma once

#include <string_view>

namespace rpln::names {

inline constexpr std::string_view batch = "batch";
inline constexpr std::string_view sequence = "sequence";
inline constexpr std::string_view choices = "choices";
inline constexpr std::string_view batch_choices = "batch*choices";
inline constexpr std::string_view masks = "masks";
inline constexpr std::string_view masked_tokens = "masked_tokens";
inline constexpr std::string_view masked_positions = "masked_positions";

}  // namespace rpln::names
