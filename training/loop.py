"""The training loop: learning rates warm up and then fall linearly, gradients are clipped."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

_Batch = TypeVar("_Batch")

_WARM_UP: Final = 0.04  # of the training; from there the rate falls linearly to 0
_MAX_GRADIENT_NORM: Final = 1.0
_STEPS_A_LINE: Final = 100


def adamw(parameters: Iterable[nn.Parameter], *, learning_rate: float) -> Optimizer:
    """Return AdamW with the settings that all checkpoints share."""
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)


def muon_and_adamw(model: nn.Module, *, matrix_rate: float, other_rate: float) -> list[Optimizer]:
    """Return Muon for the matrices of layers and heads, which learns more from every token, and AdamW for the rest."""
    parameters = dict(model.named_parameters())
    matrices = {name for name, values in parameters.items() if values.ndim == 2 and "embeddings" not in name}
    return [
        torch.optim.Muon((parameters[name] for name in sorted(matrices)), lr=matrix_rate, weight_decay=0.01),
        adamw((parameters[name] for name in sorted(parameters.keys() - matrices)), learning_rate=other_rate),
    ]


def train(
    model: nn.Module,
    *,
    epochs: int,
    optimizers: Sequence[Optimizer],
    batches_of_epoch: Callable[[], Sequence[_Batch]],
    loss_of: Callable[[_Batch], Tensor],
    after_epoch: Callable[[], str],
    bfloat16: bool = False,
) -> int:
    """Train `model` in place, and return the number of steps.

    Args:
        model: the network whose parameters are trained.
        epochs: the number of epochs.
        optimizers: hold all of the parameters; their learning rates are the peaks, reached after the warm-up.
        batches_of_epoch: returns the batches of an epoch; called anew for each.
        loss_of: returns the scalar loss of a batch; the model is in training mode.
        after_epoch: returns a phrase for the log that says how good the model is.
        bfloat16: whether the loss is computed in bfloat16; the weights stay in fp32.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    started = time.perf_counter()
    step = 0
    for epoch in range(epochs):
        model.train()
        batches = batches_of_epoch()
        for index, batch in enumerate(batches):
            progress = (epoch + index / len(batches)) / epochs
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * min(progress / _WARM_UP, 1 - progress)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                loss = loss_of(batch)
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            if step % _STEPS_A_LINE == 0:
                seconds = time.perf_counter() - started
                print(f"{progress:4.0%}  step {step}  loss {loss:.3f}  {seconds:.0f} s", flush=True)
        print(f"epoch {epoch + 1}: {after_epoch()}", flush=True)
    return step
