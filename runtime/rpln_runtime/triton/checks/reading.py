"""Reads config.pbtxt with Triton's own protobufs and Google's parser, which the extra `triton` brings."""

from functools import cache
from pathlib import Path
from typing import Any

from rpln_runtime.errors import MissingExtraError
from rpln_runtime.installing import extras_command
from rpln_runtime.triton.errors import RepositoryError


def read_config(file: Path) -> Any:
    """Return the `inference.ModelConfig` that `file` holds, with its parameters as a list of entries.

    Raises RepositoryError for a file that cannot be read, with the line that the parser refuses, and MissingExtraError
    without the protobufs.
    """
    config = _model_config()()
    from google.protobuf import text_format

    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{file} cannot be read ({error}).") from error
    except text_format.ParseError as error:
        problem = str(error).partition(" : ")[2]  # which the place stands before
        raise RepositoryError(
            f"{file}, line {error.GetLine()}: {problem.rstrip('.')}. Correct it, or write the repository anew."
        ) from error


def enum_name(message: Any, field: str) -> str:
    """Return the name of what an enum field of a protobuf message holds, or its number where it has no name."""
    number = getattr(message, field)
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(number)
    return str(number) if value is None else str(value.name)


@cache
def _model_config() -> Any:
    """Return the class of `inference.ModelConfig`, with its map of parameters as a list of entries.

    A map keeps the last of several values of a key, as Triton does. The list keeps them all, so that they are noticed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise MissingExtraError(
            f"A repository is checked with the protobufs of tritonclient, which are not installed ({error}). Run: "
            f"{extras_command('triton')}"
        ) from error
    file = descriptor_pb2.FileDescriptorProto()
    model_config_pb2.DESCRIPTOR.CopyToProto(file)
    messages = {message.name: message for message in file.message_type}
    entries = {message.name: message for message in messages["ModelConfig"].nested_type}
    entries["ParametersEntry"].options.ClearField("map_entry")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
