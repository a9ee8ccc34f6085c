"""What a run leaves behind, and that breaking it off changes nothing."""

import csv
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.sampling import some
from utils.darknet.checkpoint import load_weights, read_checkpoint
from utils.darknet.model import Darknet
from utils.data.augment import Augment
from utils.data.dataset import DetectionDataset
from utils.data.listing import read_data_file
from utils.data.loader import Batch, Loader, make_loader
from utils.data.sampling import Sampling
from utils.data.shapes import make_shapes
from utils.errors import ToolkitError
from utils.frontends.darknet.subject import gamma_penalty
from utils.pruning.sparsity import AutoStrength
from utils.training import loop
from utils.training.history import EpochRecord, History
from utils.training.loop import BEST, LAST, OUTPUTS, PREVIOUS, Extras, Loaders, train, validate
from utils.training.options import TrainingOptions
from utils.training.processes import InterruptedTrainingError, Interruption

OPTIONS = TrainingOptions(epochs=4, batch_size=2, accumulate=1, image_size=(64, 64), learning_rate=0.01)


class Witness:
    """Notes the epochs; breaks the run off at a batch of an epoch, as a kill would."""

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        self.stop, self.epoch = stop, 0
        self.records: list[EpochRecord] = []

    def epoch_started(self, epoch: int, done: int) -> None:
        self.epoch = epoch

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        if (self.epoch, number) == self.stop:
            raise KeyboardInterrupt

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        self.records.append(record)


def open_loaders(data_file: Path) -> Loaders:
    data = read_data_file(data_file)
    training = DetectionDataset.from_split(data, "train", (64, 64), augment=Augment())
    validation = DetectionDataset.from_split(data, "valid", (64, 64))
    return Loaders(make_loader(training, 2, Sampling(shuffle=True)), make_loader(validation, 2), data.names)


def run(
    cfg: Path, data: Path, output: Path, witness: Witness, resume: bool = False, **changes: object
) -> History:
    torch.manual_seed(0)
    model = Darknet.from_cfg(cfg)
    return train(
        model,
        open_loaders(data),
        replace(OPTIONS, **changes),  # type: ignore[arg-type]
        output,
        observers=[witness],
        extras=Extras(gamma_penalty(model, 0.01, 1)),
        resume=read_checkpoint(output / LAST) if resume else None,
    )


def comparable(history: History) -> list[EpochRecord]:
    return [replace(record, seconds=0.0, images_per_second=0.0, free_share=0.0) for record in history.records]


@pytest.mark.parametrize("stop", some([(4, 2), (3, 1)]))
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_broken_off_and_resumed_ends_as_an_unbroken_one(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, stop: tuple[int, int], accumulate: int
) -> None:
    whole = run(tiny_cfg, few_images, tmp_path / "whole", Witness(), accumulate=accumulate)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_cfg, few_images, tmp_path / "broken", Witness(stop), accumulate=accumulate)
    witness = Witness()
    resumed = run(tiny_cfg, few_images, tmp_path / "broken", witness, resume=True, accumulate=accumulate)
    assert [record.epoch for record in witness.records] == list(range(stop[0], 5))
    assert comparable(resumed) == comparable(whole)
    for name in (LAST, BEST):
        first, second = (read_checkpoint(tmp_path / folder / name) for folder in ("whole", "broken"))
        for key, tensor in first.state.items():
            assert torch.equal(tensor, second.state[key]), (name, key)


class Poison:
    """A loader whose images are not numbers from some batch of one epoch on, the first time that it comes."""

    def __init__(self, loader: Loader, epoch: int, batch: int = 1) -> None:
        self.inner, self.left, self.when, self.epoch, self.first = loader, 1, epoch, -1, batch
        self.dataset, self.batch_size = loader.dataset, loader.batch_size

    @property
    def position(self) -> int:
        return self.inner.position

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.epoch = epoch
        self.inner.set_epoch(epoch, skip)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.inner:
            if self.epoch == self.when and self.left and self.position >= self.first:
                self.left -= 1
                batch.images[0, 0, 0, 0] = float("nan")
            yield batch


def test_a_run_returns_to_its_last_good_state_with_a_lower_rate(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = Darknet.from_cfg(tiny_cfg)
    loaders = open_loaders(few_images)
    poisoned = loaders._replace(train=Poison(loaders.train, epoch=2))  # type: ignore[arg-type]
    options = replace(OPTIONS, schedule="constant", burn_in=0)
    with caplog.at_level("WARNING"):
        history = train(model, poisoned, options, tmp_path, observers=[Witness()])
    assert "restarting epoch 3" in caplog.text
    assert [record.epoch for record in history.records] == [1, 2, 3, 4]
    rates = [record.learning_rate for record in history.records]
    assert rates[2] == rates[3] == pytest.approx(rates[0] / 2)
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def test_a_loss_that_never_becomes_finite_ends_the_run_with_advice(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    loaders = open_loaders(few_images)
    poisoned = Poison(loaders.train, epoch=1)
    poisoned.left = 99
    with pytest.raises(ToolkitError, match=r"not finite \(6 times\); .*--learning-rate"):
        train(
            Darknet.from_cfg(tiny_cfg),
            loaders._replace(train=poisoned),  # type: ignore[arg-type]
            OPTIONS,
            tmp_path,
            observers=[Witness()],
        )
    assert read_checkpoint(tmp_path / LAST).training["epoch"] == 1


class StoppedError(Exception):
    """Breaks a run off."""


def test_a_resumed_epoch_goes_on_behind_a_batch_that_could_not_be_used(
    tiny_cfg: Path, tmp_path: Path
) -> None:
    """The images of the epoch's first batch are broken; the run is killed after its second."""
    data = make_shapes(tmp_path / "set", sizes={"train": 8, "valid": 2, "test": 2})
    loaders = open_loaders(data)
    loaders.train.set_epoch(0)
    first = next(iter(loaders.train))
    for path in first.paths:
        path.write_bytes(b"no image")

    def seen(folder: Path, stop: bool, resume: bool) -> list[str]:
        loaders, paths = open_loaders(data), []

        class Noted(Poison):
            def __iter__(self) -> Iterator[Batch]:
                for batch in self.inner:
                    paths.extend(path.name for path in batch.paths)
                    if stop and len(paths) > 2:
                        raise StoppedError
                    yield batch

        loaders = loaders._replace(train=Noted(loaders.train, -1))
        train(
            Darknet.from_cfg(tiny_cfg),
            loaders,
            replace(OPTIONS, epochs=1),
            folder,
            observers=[Witness()],
            extras=Extras(save_seconds=0.0),
            resume=read_checkpoint(folder / LAST) if resume else None,
        )
        return paths

    whole = seen(tmp_path / "whole", stop=False, resume=False)
    with pytest.raises(StoppedError):
        seen(tmp_path / "broken", stop=True, resume=False)
    assert seen(tmp_path / "broken", stop=False, resume=True) == whole[2:]


def test_the_checkpoint_before_the_last_is_kept(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    run(tiny_cfg, few_images, tmp_path, Witness(), epochs=3)
    epochs = [read_checkpoint(tmp_path / name).training["epoch"] for name in (PREVIOUS, LAST)]
    assert epochs == [2, 3]


def test_resuming_keeps_the_checkpoint_before_and_writes_none_over_it(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    """The last one may be the damaged one, so that only a state that was written whole may take its place."""
    run(tiny_cfg, few_images, tmp_path, Witness(), epochs=3)
    run(tiny_cfg, few_images, tmp_path, Witness(), resume=True, epochs=3)
    epochs = [read_checkpoint(tmp_path / name).training["epoch"] for name in (PREVIOUS, LAST)]
    assert epochs == [2, 3]


def test_a_run_resumed_inside_an_epoch_still_returns_to_the_epochs_start(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    def poisoned(folder: Path, stop: tuple[int, int] | None, resume: bool) -> History:
        torch.manual_seed(0)
        model = Darknet.from_cfg(tiny_cfg)
        loaders = open_loaders(few_images)
        loader = Poison(loaders.train, epoch=2, batch=2)
        loader.left = 0 if stop else 1
        return train(
            model,
            loaders._replace(train=loader),  # type: ignore[arg-type]
            OPTIONS,
            folder,
            observers=[Witness(stop)],
            extras=Extras(save_seconds=0.0),
            resume=read_checkpoint(folder / LAST) if resume else None,
        )

    whole = poisoned(tmp_path / "whole", None, False)
    with pytest.raises(KeyboardInterrupt):
        poisoned(tmp_path / "broken", (3, 2), False)
    state = read_checkpoint(tmp_path / "broken" / LAST).training["trainer"]
    assert state["done"] == 1
    resumed = poisoned(tmp_path / "broken", None, True)
    assert comparable(resumed) == comparable(whole)
    assert resumed.records[-1].learning_rate < OPTIONS.learning_rate / 100


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_request_to_end_does_not_wait_for_the_validation(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """It comes with the first batch of the epoch's validation; the resumed run ends as an unbroken one.

    Without a real signal, which belongs in a process of its own.
    """
    whole = run(tiny_cfg, few_images, tmp_path / "whole", Witness())
    calls, interruption = [], Interruption()

    @contextmanager
    def listening() -> Iterator[Interruption]:
        yield interruption

    def told(*args: object) -> object:
        calls.append(args)
        if len(calls) == epoch:
            interruption.signal = signal.SIGTERM
        return validate(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "listening", listening)
    monkeypatch.setattr(loop, "validate", told)
    with pytest.raises(InterruptedTrainingError) as raised:
        run(tiny_cfg, few_images, tmp_path / "broken", Witness())
    assert raised.value.exit_code == 143
    state = read_checkpoint(tmp_path / "broken" / LAST).training
    assert (state["epoch"], state["trainer"]["done"]) == (epoch - 1, 2)
    interruption.signal = 0
    assert comparable(run(tiny_cfg, few_images, tmp_path / "broken", Witness(), resume=True)) == comparable(
        whole
    )


def test_a_return_leaves_an_automatic_s_as_it_was(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    strengths = []
    for left in (0, 1):
        torch.manual_seed(0)
        model = Darknet.from_cfg(tiny_cfg)
        penalty = gamma_penalty(model, 0.001, 1)
        penalty.auto = AutoStrength(0.9, epochs=4, by=1.0)
        loaders = open_loaders(few_images)
        poisoned = Poison(loaders.train, epoch=0, batch=1)
        poisoned.left = left
        options = replace(OPTIONS, epochs=1, s_auto=True)
        loaders = loaders._replace(train=poisoned)  # type: ignore[arg-type]
        found = train(model, loaders, options, tmp_path, observers=[Witness()], extras=Extras(penalty))
        strengths.append(found.records[0].s)
    assert strengths[0] == strengths[1]


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third epoch's checkpoint breaks off half-way, as torch's writer does on a full disk."""
    whole = torch.save
    calls = []

    def break_off(content: dict[str, object], path: Path) -> None:
        if "trainer" in content["training"]:  # type: ignore[operator]
            calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/5: file write failed")
        whole(content, path)

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(ToolkitError, match=r"last.pt: cannot be written .*free some space"):
        run(tiny_cfg, few_images, tmp_path, Witness())
    assert read_checkpoint(tmp_path / LAST).training["epoch"] == 2
    assert not list(tmp_path.glob(".*part*"))


def test_the_history_file_has_a_line_for_every_epoch(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    history = run(tiny_cfg, few_images, tmp_path, Witness(), epochs=2)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    for row, record in zip(rows, history.records, strict=True):
        assert float(row["gamma_small"]) == pytest.approx(record.gamma_small, rel=1e-5)
        assert float(row["loss"]) == pytest.approx(record.loss, rel=1e-5)
    assert all((tmp_path / name).stat().st_size > 0 for name in OUTPUTS)


def test_best_holds_the_network_of_the_best_epoch(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    """Evaluating best.pt anew gives the highest mAP of the history."""
    history = run(tiny_cfg, few_images, tmp_path, Witness(), epochs=3)
    model = Darknet.from_cfg(tiny_cfg)
    load_weights(model, tmp_path / BEST)
    loaders = open_loaders(few_images)
    assert loaders.valid is not None
    found = validate(model, loaders.valid, model.head_specs, loaders.names).map50
    assert found == pytest.approx(max(record.map50 for record in history.records), abs=1e-6)
    assert history.best is not None
    assert read_checkpoint(tmp_path / BEST).training["epoch"] == history.best.epoch


def test_best_holds_the_average_not_the_raw_weights(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    """After one epoch, the best so far, best.pt and last.pt hold one network, and it is not the raw one."""
    run(tiny_cfg, few_images, tmp_path, Witness(), epochs=1)
    best, last = (read_checkpoint(tmp_path / name) for name in (BEST, LAST))
    raw = last.training["trainer"]["model"]
    assert all(torch.equal(tensor, last.state[name]) for name, tensor in best.state.items())
    assert any(not torch.equal(tensor, raw[name]) for name, tensor in best.state.items())


def test_the_penalty_shrinks_gammas(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    """The same run with and without it: the median gamma ends lower with it."""
    ends = {}
    for s in (0.0, 1.0):
        torch.manual_seed(0)
        model = Darknet.from_cfg(tiny_cfg)
        penalty = gamma_penalty(model, s, 1)
        loaders = open_loaders(few_images)
        history = train(
            model,
            loaders,
            replace(OPTIONS, epochs=2, gamma_reach=0.9),
            tmp_path / str(s),
            observers=[Witness()],
            extras=Extras(penalty),
        )
        ends[s] = history.records[-1].gamma_50
    assert ends[1.0] < ends[0.0] - 0.001


def test_without_validation_images_the_last_epoch_is_the_best(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    model = Darknet.from_cfg(tiny_cfg)
    loaders = open_loaders(few_images)._replace(valid=None)
    history = train(model, loaders, replace(OPTIONS, epochs=2), tmp_path, observers=[Witness()])
    assert history.best is history.records[-1]
    assert read_checkpoint(tmp_path / BEST).training["epoch"] == 2


def test_a_checkpoint_without_a_run_cannot_be_resumed(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    run(tiny_cfg, few_images, tmp_path, Witness(), epochs=1)
    with pytest.raises(ToolkitError, match="no training state"):
        train(
            Darknet.from_cfg(tiny_cfg),
            open_loaders(few_images),
            OPTIONS,
            tmp_path,
            observers=[Witness()],
            resume=read_checkpoint(tmp_path / BEST),
        )


def test_options_survive_a_checkpoint() -> None:
    options = replace(
        OPTIONS,
        epochs=7,
        box_weight=3.0,
        augment=Augment(mosaic=0.5),
        s_schedule=("local",),
        image_size=(96, 64),
    )
    assert TrainingOptions.from_mapping(options.to_mapping()) == options
