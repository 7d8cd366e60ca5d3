import pytest
import torch
from torch import Tensor, nn

from training.loop import adamw, muon_and_adamw, train


class _Recorder(torch.optim.SGD):
    """An optimizer that records the learning rate of every step."""

    rates: list[float]

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        self.rates.append(self.param_groups[0]["lr"])
        super().step()


def test_rates_rise_to_the_peak_and_fall_to_nothing() -> None:
    model = nn.Linear(1, 1)
    optimizer = _Recorder(model.parameters(), lr=0.5)
    optimizer.rates = []
    epochs: list[bool] = []

    def after_epoch() -> str:
        epochs.append(model.training)
        return ""

    steps = train(
        model,
        epochs=2,
        optimizers=[optimizer],
        batches_of_epoch=lambda: [torch.ones(1, 1)] * 50,
        loss_of=lambda batch: model(batch).sum(),
        after_epoch=after_epoch,
    )
    assert (steps, len(optimizer.rates), len(epochs)) == (100, 100, 2)
    assert optimizer.rates[0] == 0
    assert max(optimizer.rates) == pytest.approx(0.5 * 0.96)
    assert optimizer.rates.index(max(optimizer.rates)) == 4
    assert optimizer.rates[-1] == pytest.approx(0.5 * 0.01)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_training_lowers_the_loss(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    inputs = torch.randn(64, 4)
    wanted = inputs[:, :1] * inputs[:, 1:2]

    def loss_of(batch: Tensor) -> Tensor:
        loss: Tensor = ((model(batch) - wanted) ** 2).mean()
        return loss

    before = loss_of(inputs).item()
    train(
        model,
        epochs=1,
        optimizers=[adamw(model.parameters(), learning_rate=0.05)]
        if kind == "adamw"
        else muon_and_adamw(model, matrix_rate=0.05, other_rate=0.05),
        batches_of_epoch=lambda: [inputs] * 100,
        loss_of=loss_of,
        after_epoch=str,
    )
    assert loss_of(inputs).item() < before / 4


def test_every_parameter_has_one_optimizer_and_tables_have_no_muon() -> None:
    model = nn.ModuleDict({"embeddings": nn.Embedding(5, 4), "dense": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    muon, adam = (
        {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in muon_and_adamw(model, matrix_rate=1, other_rate=1)
    )
    assert muon == {id(model.get_parameter("dense.weight"))}
    assert adam == {id(parameter) for parameter in model.parameters()} - muon
