"""A decoder's bundle behind one call: text or tokens in, what follows out."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict, overload

from rpln_runtime.engines.providers import provider_row
from rpln_runtime.errors import InputError
from rpln_runtime.generation.decoder import Decoder, decoder_variants, encoder_variants
from rpln_runtime.generation.job import Job, plan_batches
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.prompts import prompt_from_encoding
from rpln_runtime.generation.request import EncoderStates, Prompts, Sources, check_tokens
from rpln_runtime.generation.sequences import Generated
from rpln_runtime.generation.stopping import Stopping
from rpln_runtime.generation.streaming import TextStream, TextStreams
from rpln_runtime.manifest import Manifest, read_manifest
from rpln_runtime.options import check_integer
from rpln_runtime.session import default_provider, load
from rpln_runtime.tokenization import Tokenizer

BATCH_SIZE: Final = 8

OnText: TypeAlias = Callable[[int, int, str], None]
OnToken: TypeAlias = Callable[[int, int, int], None]


class GeneratedText(TypedDict):
    """A text that was generated, as transformers' pipelines give it."""

    generated_text: str


def generator(
    folder: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int = BATCH_SIZE,
    verify: bool = True,
    **options: Any,
) -> "Generator":
    """Open the bundle in `folder` to generate text.

    `provider`, `threads` and `verify` are those of `load`, `batch_size` the most sequences that grow at a time (beams
    count). The other options are those of `GenerationOptions`; a call may override them:

        go_on = generator("brown-lm-text-generation-fp32", max_new_tokens=40)
        go_on("The old man")
        go_on(["One prompt", "Another"], do_sample=True, seed=7)

    Raises what `load` raises, and InputError for a bundle that does not generate and for options out of range or
    without effect.
    """
    check_integer("batch_size", batch_size, minimum=1)
    folder = Path(folder)
    manifest = read_manifest(folder, verify=verify)
    if manifest.generation is None:
        raise InputError(
            f"{folder} is a bundle for {manifest.task} and says nothing of generation: expected one of a decoder. For "
            "other tasks there are pipeline() and load()."
        )
    provider = provider or default_provider(manifest)
    decoder = decoder_variants(manifest, takes_empty=provider_row(provider).takes_empty)
    sessions = {
        variant: load(folder, provider=provider, threads=threads, variant=variant, verify=False)
        for variant in dict.fromkeys([*decoder, *encoder_variants(manifest)])
    }
    return Generator(
        manifest=manifest,
        decoder=Decoder.from_sessions(sessions, decoder),
        sources=Sources(generation=manifest.generation, encoder=sessions.get("encoder"), cross=sessions.get("cross")),
        tokenizer=Tokenizer.from_bundle(folder, manifest),
        batch_size=batch_size,
        options=_replace(GenerationOptions(), options),
    )


class Generator:
    """A decoder, ready to be called. Threads may share it.

    Attributes:
        manifest: what the bundle says of itself.
        options: the options in force.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        decoder: Decoder,
        sources: Sources,
        tokenizer: Tokenizer,
        batch_size: int,
        options: GenerationOptions,
    ) -> None:
        self.manifest = manifest
        self.options = options
        self._decoder = decoder
        self._sources = sources
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._check(options)

    @property
    def continues_prompts(self) -> bool:
        """Whether new text goes on from its prompt; that of an encoder-decoder stands for itself."""
        return not self._decoder.has_cross_attention

    @overload
    def __call__(self, inputs: str, /, *, callback: OnText | None = None, **options: Any) -> list[GeneratedText]: ...

    @overload
    def __call__(
        self, inputs: Sequence[str] | EncoderStates, /, *, callback: OnText | None = None, **options: Any
    ) -> list[list[GeneratedText]]: ...

    def __call__(
        self,
        inputs: str | Sequence[str] | EncoderStates,
        /,
        *,
        callback: OnText | None = None,
        **options: Any,
    ) -> list[GeneratedText] | list[list[GeneratedText]]:
        """Continue a prompt or each of a list of prompts; with an encoder, answer a text or each of a list of texts.

        `callback` gets pieces of new text as they come, after the place of their prompt in the list and that of their
        sequence among those of the prompt. `options`, those of `GenerationOptions`, are for this call alone.

        Returns the `num_return_sequences` answers to one prompt, or for a list or EncoderStates a list of these.
        Raises InputError for inputs that the bundle does not take, a prompt that leaves no room, and for options out of
        range or without effect.
        """
        if callback is not None and not callable(callback):
            raise InputError(f"callback is {callback!r}, expected a function.")
        chosen = self._options(options)
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, Sequence | EncoderStates):
            raise InputError(
                f"inputs are a {type(inputs).__name__}, expected a text, a list of texts or EncoderStates."
            )
        tokens = texts if isinstance(texts, EncoderStates) else [self._tokens_from_text(text) for text in texts]
        if callback is None:
            found = self._generate(tokens, chosen, None)
        else:
            streams = TextStreams(self._tokenizer, callback)
            found = self._generate(tokens, chosen, streams.push)
            streams.close()
        heads = texts if not isinstance(texts, EncoderStates) and self._gives_prompts(chosen) else [""] * len(found)
        answers = [
            [GeneratedText(generated_text=head + self._text_from_tokens(one.tokens)) for one in sequences]
            for head, sequences in zip(heads, found, strict=True)
        ]
        return answers[0] if isinstance(inputs, str) else answers

    def tokens(
        self,
        inputs: Prompts | EncoderStates,
        /,
        *,
        callback: OnToken | None = None,
        **options: Any,
    ) -> list[list[Generated]]:
        """Do as a call does for a list of prompts, with tokens in and the new tokens out.

        An empty prompt stands for the token that texts begin with. `callback` gets each token as it is chosen.
        """
        checked = inputs if isinstance(inputs, EncoderStates) else check_tokens(inputs, self.manifest.vocab_size)
        return self._generate(checked, self._options(options), callback)

    def stream(self, inputs: str | EncoderStates, /, **options: Any) -> Iterator[str]:
        """Continue one prompt piece by piece. The pieces joined are the new text; the prompt is not repeated.

        Each step runs when its piece is asked for. Raises InputError at once, for the reasons of a call, and for
        options that find several sequences or find them only at the end.
        """
        chosen = self._options(options)
        if chosen.num_beams > 1 or chosen.num_return_sequences > 1:
            raise InputError("a stream is of one sequence: expected num_beams=1 and num_return_sequences=1.")
        tokens = inputs if isinstance(inputs, EncoderStates) else [self._tokens_from_text(inputs)]
        job = self._job(tokens, chosen)
        if len(job.request.contexts) > 1:
            raise InputError(f"a stream is of one prompt, hidden_states has {len(job.request.contexts)}.")
        return self._pieces(job)

    def _pieces(self, job: Job) -> Iterator[str]:
        stream = TextStream(self._tokenizer)
        for row in job.grow():
            if piece := stream.push(row.tokens[-1]):
                yield piece
        if rest := stream.close():
            yield rest

    def _generate(
        self,
        inputs: Prompts | EncoderStates,
        options: GenerationOptions,
        callback: OnToken | None,
    ) -> list[list[Generated]]:
        job = self._job(inputs, options)
        if options.num_beams > 1:
            if callback is not None:
                raise InputError("beam search finds its texts at the end: expected num_beams=1 with a callback.")
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

    def _job(self, inputs: Prompts | EncoderStates, options: GenerationOptions) -> Job:
        generation = self._sources.generation
        request = self._sources.request(inputs)
        ends = generation.eos_token_ids if options.stop_token_ids is None else options.stop_token_ids
        return Job(
            decoder=self._decoder,
            generation=generation,
            request=request,
            batches=plan_batches(request, self._decoder, options, generation, batch_size=self._batch_size),
            options=options,
            stop=Stopping(ends, options.strings, self._tokenizer),
        )

    def _options(self, changes: Mapping[str, Any]) -> GenerationOptions:
        options = _replace(self.options, changes)
        self._check(options)
        return options

    def _check(self, options: GenerationOptions) -> None:
        """Check what depends on the bundle."""
        self._decoder.check_positions(options.positions)
        if not self.continues_prompts and options.return_full_text is not None:
            raise InputError("return_full_text is for decoders that continue a prompt: this one answers a text.")

    def _tokens_from_text(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text)
        return prompt_from_encoding(encoding) if self.continues_prompts else encoding.ids.tolist()

    def _text_from_tokens(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _gives_prompts(self, options: GenerationOptions) -> bool:
        return self.continues_prompts and options.return_full_text is not False


def _replace(options: GenerationOptions, changes: Mapping[str, Any]) -> GenerationOptions:
    known = [field.name for field in dataclasses.fields(GenerationOptions)]
    for name in changes:
        if name not in known:
            raise InputError(f"unknown option {name!r} of a generation: expected one of {', '.join(known)}.")
    return dataclasses.replace(options, **changes)
