"""Generators: the bundle of a decoder behind one call. Text or tokens in, new text or tokens out."""

import dataclasses
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict, overload

from rpln_runtime.batching import OnRows
from rpln_runtime.described import options_in_words
from rpln_runtime.engines.providers import provider_row
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.decoder import Decoder, decoder_variants, encoder_variants
from rpln_runtime.generation.defaults import check_defaults, options_over_defaults
from rpln_runtime.generation.job import Job, plan_batches
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.prompts import prompt_from_encoding
from rpln_runtime.generation.request import EncoderStates, Prompts, Sources, check_tokens
from rpln_runtime.generation.sequences import Generated
from rpln_runtime.generation.stopping import Stopping
from rpln_runtime.generation.streaming import TextStream, TextStreams
from rpln_runtime.items import encode_each
from rpln_runtime.manifest import MANIFEST_NAME, Manifest, read_manifest
from rpln_runtime.options import check_integer, path_from_value, plain, shown_kind
from rpln_runtime.session import Reopenable, default_provider, open_session
from rpln_runtime.tokenization import Tokenizer

BATCH_SIZE: Final = 8
"""The most sequences that are generated at a time where the user says nothing."""

OnText: TypeAlias = Callable[[int, int, str], None]
"""A function that gets a piece of new text, after the place of its prompt and the place of its sequence there."""
OnToken: TypeAlias = Callable[[int, int, int], None]
"""A function that gets a new token, after the place of its prompt and the place of its sequence there."""


class GeneratedText(TypedDict):
    """An answer, as transformers' pipelines give it.

    Attributes:
        generated_text: the new text. If the decoder continues prompts and `return_full_text` is not False, the prompt
            stands before it.
    """

    generated_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A generated text and how it came about.

    Attributes:
        text: what an answer has as its `generated_text`.
        read: how many tokens the prompt has.
        written: how many new tokens there are.
        ended: whether a stop token or a stop string ended the text. Otherwise there was no room for more tokens.
    """

    text: str
    read: int
    written: int
    ended: bool


def generator(
    folder: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int = BATCH_SIZE,
    int8_cache: bool = False,
    verify: bool = True,
    **options: Any,
) -> "Generator":
    """Open the bundle of a decoder, and return the generator to call with texts.

    Args:
        folder: the bundle.
        provider: the provider that runs the graphs, as in `load`.
        threads: the most threads that one operator uses, as in `load`.
        batch_size: the most sequences that are generated at a time. Each beam counts.
        int8_cache: whether the provider rounds keys and values to 8 bits. "openvino" can, for graphs of prompt and
            steps whose cache is in fp32.
        verify: whether to compare the SHA-256 of every file with the manifest first.
        **options: the attributes of `GenerationOptions`, which count before those that the checkpoint sets. A call may
            give other values.

    Raises what `load` raises, ProviderError for an `int8_cache` that the provider does not have, and InputError for a
    bundle that does not generate text, an option that is unknown or out of range, and one that would have no effect.
    For example:

        go_on = generator("brown-lm-text-generation-fp32", max_new_tokens=40)
        go_on("The old man")
        go_on(["One prompt", "Another"], do_sample=True, seed=7)
    """
    path = path_from_value("folder", folder)
    return open_generator(
        path,
        read_manifest(path, verify=verify),
        provider=provider,
        threads=threads,
        batch_size=batch_size,
        int8_cache=int8_cache,
        verify=verify,
        **options,
    )


def open_generator(
    folder: Path,
    manifest: Manifest,
    *,
    provider: str | None,
    threads: int | None,
    batch_size: int,
    verify: bool,
    int8_cache: bool = False,
    **options: Any,
) -> "Generator":
    """Open the bundle in `folder`, which `manifest` describes and which was verified. For the rest, see `generator`."""
    batch_size = plain(batch_size)
    check_integer("batch_size", batch_size, minimum=1)
    if manifest.generation is None:
        raise InputError(
            f"{folder} is a bundle for {manifest.task}, whose manifest says nothing of generating text: expected the "
            "bundle of a decoder. Open other bundles with pipeline() or load()."
        )
    chosen = provider or default_provider(manifest)
    decoder = decoder_variants(manifest, takes_empty=provider_row(chosen).takes_empty)
    sessions = {
        variant: open_session(folder, manifest, provider=chosen, threads=threads, variant=variant, verify=verify)
        for variant in dict.fromkeys([*decoder, *encoder_variants(manifest)])
    }
    return Generator(
        manifest=manifest,
        decoder=Decoder.from_sessions(sessions, decoder, int8_cache=int8_cache),
        sources=Sources(generation=manifest.generation, encoder=sessions.get("encoder"), cross=sessions.get("cross")),
        tokenizer=Tokenizer.from_bundle(folder, manifest),
        batch_size=batch_size,
        options=options,
        reopen=partial(
            generator,
            folder.absolute(),
            provider=provider,
            threads=threads,
            batch_size=batch_size,
            int8_cache=int8_cache,
            verify=verify,
            **options,
        ),
    )


class Generator(Reopenable):
    """A decoder that is open for generating text, which `generator` returns: call it with texts. Threads may share it.

    Pickling it keeps the folder and the options alone: the copy, in this process or another, opens the bundle again.

    Attributes:
        manifest: the description of the bundle.
        options: the options where a call gives no others: those that the generator was opened with, and for the others
            those that the checkpoint sets.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        decoder: Decoder,
        sources: Sources,
        tokenizer: Tokenizer,
        batch_size: int,
        options: Mapping[str, Any],
        reopen: "Callable[[], Generator] | None" = None,
    ) -> None:
        """Put the parts together. `reopen` opens the generator again; without it, the generator cannot be pickled."""
        super().__init__(reopen)
        self.manifest = manifest
        self._given = options
        self._decoder = decoder
        self._sources = sources
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._check_defaults()
        self.options = self._options({})

    def described(self) -> dict[str, str]:
        """Return what a person wants to know of the generator first."""
        options = {
            field.name: getattr(self.options, field.name)
            for field in dataclasses.fields(self.options)
            if getattr(self.options, field.name) != field.default
        }
        return {
            "task": self.manifest.task,
            "new text": "continues a prompt" if self.continues_prompts else "answers a text",
            "provider": self._decoder.step.provider,
            "precision": self.manifest.recipe,
            "limits": f"at most {self._decoder.limit} tokens, {self._batch_size} sequences at a time",
            "options": options_in_words(options) or "those of greedy search",
        }

    @property
    def continues_prompts(self) -> bool:
        """Whether new text continues a prompt. False for an encoder-decoder, whose new text answers a text."""
        return not self._decoder.has_cross_attention

    @overload
    def __call__(
        self, inputs: str, /, *, callback: OnText | None = None, on_rows: OnRows | None = None, **options: Any
    ) -> list[GeneratedText]: ...

    @overload
    def __call__(
        self,
        inputs: Sequence[str] | EncoderStates,
        /,
        *,
        callback: OnText | None = None,
        on_rows: OnRows | None = None,
        **options: Any,
    ) -> list[list[GeneratedText]]: ...

    def __call__(
        self,
        inputs: str | Sequence[str] | EncoderStates,
        /,
        *,
        callback: OnText | None = None,
        on_rows: OnRows | None = None,
        **options: Any,
    ) -> list[GeneratedText] | list[list[GeneratedText]]:
        """Return the texts that continue a prompt, or that answer a text if the bundle has an encoder.

        Args:
            inputs: a text, a list of texts, or the output of an encoder of your own.
            callback: a function that gets pieces of new text as they come. Its arguments are the place of the prompt in
                the list, the place of the sequence among those of the prompt, and the piece.
            on_rows: a function that is called after each batch, with how many texts are done and how many there are.
            **options: the attributes of `GenerationOptions`, for this call.

        Returns a list of `num_return_sequences` answers for a single text, and a list of such lists otherwise. Raises
        InputError for inputs that the bundle does not take, a prompt that leaves no room for new tokens, an option that
        is unknown or out of range, and one that would have no effect.
        """
        if callback is not None and not callable(callback):
            raise InputError(f"callback is {callback!r}, expected a function.")
        chosen = self._options(options)
        given: Any = plain(inputs)
        texts: Any = [given] if isinstance(given, str) else given
        if not isinstance(texts, Sequence | EncoderStates) or isinstance(texts, bytes | bytearray):
            raise InputError(f"the input is {shown_kind(given)}, expected a text, a list of texts or EncoderStates.")
        tokens = texts if isinstance(texts, EncoderStates) else encode_each(self._tokens_from_text, texts)
        if callback is None:
            found = self._generate(tokens, chosen, None, on_rows)
        else:
            streams = TextStreams(self._tokenizer, callback)
            found = self._generate(tokens, chosen, streams.push, on_rows)
            streams.close()
        heads = texts if not isinstance(texts, EncoderStates) and self._gives_prompts(chosen) else [""] * len(found)
        answers = [
            [GeneratedText(generated_text=head + self._text_from_tokens(one.tokens)) for one in sequences]
            for head, sequences in zip(heads, found, strict=True)
        ]
        return answers[0] if isinstance(given, str) else answers

    def completions(self, texts: Sequence[str], /, **options: Any) -> list[list[Completion]]:
        """Return the texts that a call with `texts` returns, each with its number of tokens and why it ended.

        Raises InputError as a call does.
        """
        chosen = self._options(options)
        prompts = [self._tokens_from_text(text) for text in texts]
        heads = texts if self._gives_prompts(chosen) else [""] * len(texts)
        stop = self._stopping(chosen)
        return [
            [
                Completion(
                    text=head + self._text_from_tokens(one.tokens),
                    read=len(prompt),
                    written=len(one.tokens),
                    ended=stop.ends(one.tokens),
                )
                for one in sequences
            ]
            for head, prompt, sequences in zip(heads, prompts, self._generate(prompts, chosen, None), strict=True)
        ]

    def tokens(
        self,
        inputs: Prompts | EncoderStates,
        /,
        *,
        callback: OnToken | None = None,
        **options: Any,
    ) -> list[list[Generated]]:
        """Return the finished sequences for each of several prompts, with the ids of their new tokens.

        Args:
            inputs: prompts or texts as lists of token ids, or the output of an encoder of your own. An empty prompt
                stands for the token that texts begin with.
            callback: a function that gets tokens as they are chosen. Its arguments are the place of the prompt, the
                place of the sequence among those of the prompt, and the token.
            **options: the attributes of `GenerationOptions`, for this call.

        Raises InputError as a call with texts does.
        """
        checked = inputs if isinstance(inputs, EncoderStates) else check_tokens(inputs, self.manifest.vocab_size)
        return self._generate(checked, self._options(options), callback)

    def stream(self, inputs: str | EncoderStates, /, **options: Any) -> "abc.Generator[str, None, bool]":
        """Return a generator of the pieces of the new text for one prompt.

        Joined, the pieces are the new text; the prompt is not repeated. Each step is computed when its piece is asked
        for. What the generator returns at its end is whether a stop token or a stop string ended the text. Raises
        InputError at once, for the reasons of a call, and for options that ask for several sequences or for beam
        search.
        """
        chosen = self._options(options)
        if chosen.num_beams > 1 or chosen.num_return_sequences > 1:
            raise InputError("a stream gives one sequence: expected num_beams=1 and num_return_sequences=1.")
        tokens = inputs if isinstance(inputs, EncoderStates) else [self._tokens_from_text(plain(inputs))]
        job = self._job(tokens, chosen)
        if len(job.request.contexts) > 1:
            raise InputError(f"a stream takes one prompt, but hidden_states has {len(job.request.contexts)}.")
        return self._pieces(job)

    def _pieces(self, job: Job) -> "abc.Generator[str, None, bool]":
        """Yield the pieces of new text of a job with one sequence. Return whether it ended by itself."""
        stream = TextStream(self._tokenizer)
        ended = False
        for row in job.grow():
            if piece := stream.push(row.tokens[-1]):
                yield piece
            ended = job.stop.ends(row.tokens)
        if rest := stream.close():
            yield rest
        return ended

    def _generate(
        self,
        inputs: Prompts | EncoderStates,
        options: GenerationOptions,
        callback: OnToken | None,
        on_rows: OnRows | None = None,
    ) -> list[list[Generated]]:
        """Return the finished sequences of each prompt, and call `callback` for each token."""
        job = self._job(inputs, options, on_rows)
        if options.num_beams > 1:
            if callback is not None:
                raise InputError(
                    "beam search finds its sequences only at the end: expected num_beams=1 with a callback."
                )
            return job.search()
        rows = {}
        for row in job.grow():
            rows[row.prompt, row.sequence] = row
            if callback is not None:
                callback(row.prompt, row.sequence, row.tokens[-1])
        return [
            [Generated(rows[prompt, sequence].tokens) for sequence in range(options.num_return_sequences)]
            for prompt in range(len(job.request.contexts))
        ]

    def _job(self, inputs: Prompts | EncoderStates, options: GenerationOptions, on_rows: OnRows | None = None) -> Job:
        """Return the work of a call: its prompts in batches, its options, and what ends its sequences."""
        generation = self._sources.generation
        request = self._sources.request(inputs)
        return Job(
            decoder=self._decoder,
            generation=generation,
            request=request,
            batches=plan_batches(request, self._decoder, options, generation, batch_size=self._batch_size),
            options=options,
            stop=self._stopping(options),
            on_rows=on_rows,
        )

    def _stopping(self, options: GenerationOptions) -> Stopping:
        """Return what ends the sequences of a call."""
        ends = self._sources.generation.eos_token_ids if options.stop_token_ids is None else options.stop_token_ids
        return Stopping(ends, options.strings, self._tokenizer)

    def _options(self, changes: Mapping[str, Any]) -> GenerationOptions:
        """Return the options of a call. Raises InputError for options that this bundle cannot have."""
        options = options_over_defaults(plain({**self._given, **changes}), self._sources.generation.defaults)
        self._check(options)
        return options

    def _check_defaults(self) -> None:
        """Raise ManifestError for options in the manifest that the decoder cannot have."""
        try:
            check_defaults(self._sources.generation.defaults, vocab_size=self._decoder.vocab_size)
        except InputError as error:
            raise ManifestError(
                f"{MANIFEST_NAME} has other options in generation.defaults than a decoder can have: {error} Export the "
                "checkpoint again."
            ) from error

    def _check(self, options: GenerationOptions) -> None:
        """Raise InputError for options that this bundle cannot have."""
        options.check_vocabulary(self._decoder.vocab_size)
        self._decoder.check_positions(options.positions)
        if not self.continues_prompts and options.return_full_text is not None:
            raise InputError(
                "return_full_text is for decoders that continue a prompt, but this one answers a text: drop it."
            )

    def _tokens_from_text(self, text: str) -> list[int]:
        """Return the tokens that the decoder continues, or that the encoder reads if there is one."""
        encoder = self._sources.encoder
        limit = self._decoder.limit if encoder is None else encoder.manifest.usable_length
        self._tokenizer.check_bytes(text, limit, advice="shorten it.")
        encoding = self._tokenizer.encode(text)
        return prompt_from_encoding(encoding) if self.continues_prompts else encoding.ids.tolist()

    def _text_from_tokens(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _gives_prompts(self, options: GenerationOptions) -> bool:
        """Return whether an answer begins with its prompt."""
        return self.continues_prompts and options.return_full_text is not False
