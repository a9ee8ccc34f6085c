import gc
import itertools
import multiprocessing
import pickle

import pytest
import torch

from tests.data.files import write_label
from utils.data.augment import Augment
from utils.data.dataset import DetectionDataset
from utils.data.listing import read_data_file
from utils.data.loader import Loader, make_loader
from utils.data.sampling import EpochSampler, Sampling
from utils.errors import DatasetError

SHUFFLED = Sampling(shuffle=True)


def open_split(path, augment=None) -> DetectionDataset:
    return DetectionDataset.from_split(read_data_file(path), "train", (32, 32), augment=augment)


def passes(loader, epochs: int) -> list[torch.Tensor]:
    return [torch.cat([batch.images for batch in loader]) for _ in range(epochs)]


def test_a_batch_holds_images_and_targets_in_order(data_file):
    write_label(data_file.parent / "labels/1.txt", "")
    write_label(data_file.parent / "labels/2.txt", "0 .5 .5 .5 .5\n1 .25 .25 .5 .5\n")
    dataset = open_split(data_file)
    batch = next(iter(make_loader(dataset, 4)))
    assert batch.images.shape == (4, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(batch.images[2], dataset[2].image / 255)
    assert batch.targets[:, :2].tolist() == [[0, 0], [2, 0], [2, 1], [3, 1]]
    torch.testing.assert_close(batch.targets[2, 2:], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    assert [path.name for path in batch.paths] == ["0.png", "1.png", "2.png", "3.png"]
    assert batch.sizes[3] == (33, 47)


def test_batches_are_the_same_with_and_without_workers(data_file):
    dataset = open_split(data_file, Augment())
    alone, helped = (make_loader(dataset, 4, SHUFFLED, seed=3, workers=workers) for workers in (0, 2))
    for first, second in zip(passes(alone, 2), passes(helped, 2), strict=True):
        assert torch.equal(first, second)


def test_a_dataset_survives_the_way_to_a_spawned_process(data_file):
    dataset = open_split(data_file, Augment())
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(dataset[1].image, copied[1].image)


def test_workers_are_gone_with_their_loader(data_file):
    loader = make_loader(open_split(data_file), 2, workers=2)
    passes(loader, 1)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    del loader
    gc.collect()
    for worker in workers:
        worker.join(5)
        assert not worker.is_alive()


def test_epochs_differ_and_any_can_be_repeated(data_file):
    dataset = open_split(data_file, Augment())
    loader = make_loader(dataset, 6, SHUFFLED, seed=3)
    epochs = passes(loader, 3)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(epochs, 2))
    resumed = make_loader(dataset, 6, SHUFFLED, seed=3)
    resumed.set_epoch(1)
    for first, second in zip(epochs[1:], passes(resumed, 2), strict=True):
        assert torch.equal(first, second)
    other_seed = make_loader(dataset, 6, SHUFFLED, seed=4)
    assert not torch.equal(epochs[0], passes(other_seed, 1)[0])


def test_a_skipped_pass_over_rectangles_continues_with_the_next_batches(data_file):
    data = read_data_file(data_file)
    loader = make_loader(DetectionDataset.from_split(data, "train", (96, 96), rectangles=32), 2)
    loader.set_epoch(0)
    whole = [batch.numbers for batch in loader]
    loader.set_epoch(0, skip=1)
    assert len(whole) > 1
    assert [batch.numbers for batch in loader] == whole[1:]
    assert [batch.numbers for batch in loader] == whole


def test_loading_leaves_torchs_random_state_alone(data_file):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    passes(make_loader(open_split(data_file, Augment()), 2, SHUFFLED), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("length, world", [(10, 3), (7, 2), (4, 4), (2, 3)])
def test_processes_share_out_every_image_and_get_equally_many(length, world):
    parts = [list(EpochSampler(length, True, 0, rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert {key.number for part in parts for key in part} == set(range(length))


@pytest.mark.parametrize("workers", [0, 1])
def test_unusable_images_are_left_out_and_reported_once(data_file, workers, caplog):
    for name in ("1.png", "4.png", "5.png"):
        (data_file.parent / "images" / name).write_bytes(b"broken")
    loader = make_loader(open_split(data_file), 2, workers=workers)
    for _ in range(2):
        batches = list(loader)
        # the last batch has nothing left
        assert [[path.name for path in batch.paths] for batch in batches] == [["0.png"], ["2.png", "3.png"]]
    assert len(loader.problems) == 3
    assert caplog.text.count("1.png") == 1


def test_a_short_last_batch_is_dropped_on_demand_unless_it_is_alone(data_file):
    dataset = open_split(data_file)
    assert [len(batch) for batch in make_loader(dataset, 4, Sampling(drop_last=True))] == [4]
    assert [len(batch) for batch in make_loader(dataset, 4)] == [4, 2]
    assert [len(batch) for batch in make_loader(dataset, 9, Sampling(drop_last=True))] == [6]


def test_no_batch_may_be_missing_where_other_processes_wait_for_it(data_file):
    """They would wait for ever for this one's share of the gradient."""
    dataset = open_split(data_file)
    for path in dataset.images:
        path.write_bytes(b"no image")
    plain = make_loader(dataset, 4)
    assert list(plain) == []
    in_step = Loader(dataset, plain.batches, plain.sampler, 4, in_step=True)
    with pytest.raises(DatasetError, match="all processes"):
        list(in_step)
