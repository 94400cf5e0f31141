"""What every data set gets from `ImageData`: splits, facts, loaders."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer

import dbl.data
import dbl.data.images.measure
from dbl.data import HorizontalFlip, ImageBatches, ImageData, ImageSet, PaddedCrop, TrainingOrder
from dbl.data.splits import stratified_split
from dbl.utils.errors import UserError


class Toy(ImageData):
    """Images that are all different, so that each can be found again."""

    def __init__(self, validation=None, labels=None, test_labels=None, images=None, **base):
        super().__init__(**({"batch_size": 8, "eval_batch_size": 8} | base))
        self.validation = validation
        self.labels = torch.arange(100) % 4 if labels is None else labels
        self.test_labels = torch.arange(30) % 4 if test_labels is None else test_labels
        self.images = images
        self.loads = []

    def load(self, split):
        self.loads.append(split)
        if split == "validation":
            return self.validation
        labels = self.labels if split == "train" else self.test_labels
        if split == "train" and self.images is not None:
            return ImageSet(self.images, labels)
        images = torch.zeros(len(labels), 2, 3, 5, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.arange(len(labels)).to(torch.uint8)
        images[:, 1] = 7 if split == "test" else torch.arange(len(labels)).to(torch.uint8)[:, None, None]
        return ImageSet(images, labels)


def everything(images: ImageSet) -> torch.Tensor:
    return images.images[torch.arange(len(images))]


def ids(images: ImageSet) -> list[int]:
    return everything(images)[:, 0, 0, 0].tolist()


def test_cut_is_disjoint_complete_and_stratified():
    """Catches validation images that are trained on, lost images, and classes missing in validation."""
    data = Toy(validation_share=0.2)
    train, validation = data.split("train"), data.split("validation")
    assert sorted(ids(train) + ids(validation)) == list(range(100))
    assert validation.labels.bincount().tolist() == [5, 5, 5, 5]
    assert [index % 4 for index in ids(validation)] == validation.labels.tolist()


def test_cut_depends_on_the_split_seed_only():
    """Catches a cut that moves with the training seed: runs would train on each other's validation images."""
    first = ids(Toy(split_seed=0, seed=0).split("validation"))
    torch.manual_seed(7)
    assert ids(Toy(split_seed=0, seed=1).split("validation")) == first
    assert ids(Toy(split_seed=1, seed=0).split("validation")) != first


def test_share_is_rounded_down_for_each_class():
    """Catches a cut that takes the only image of a class out of training."""
    labels = torch.tensor([0] * 10 + [1] * 3 + [2])
    kept, held_out = stratified_split(labels, 0.5, seed=0)
    assert labels[held_out].bincount(minlength=3).tolist() == [5, 1, 0]
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(14))


def test_own_validation_split_is_used_whole():
    """Catches a cut although the data set has a validation split."""
    own = ImageSet(torch.zeros(6, 2, 3, 5, dtype=torch.uint8), torch.zeros(6).long())
    data = Toy(validation=own)
    assert len(data.split("train")) == 100
    assert data.split("validation") is own


def test_splits_are_loaded_once():
    """Catches decoding the training images for every use."""
    data = Toy()
    for _ in range(2):
        _ = data.spec, data.split("train"), data.split("validation"), data.split("test")
    assert sorted(data.loads) == ["test", "train", "validation"]


def test_statistics_equal_a_plain_loop_over_the_training_split():
    """Catches statistics that include validation or test images, mix channels, or divide by N - 1."""
    images = torch.randint(256, (100, 2, 3, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = Toy(images=images, labels=torch.arange(100) % 4 // 2)
    train = data.split("train")
    for channel in range(2):
        values = [float(pixel) for image in everything(train) for pixel in image[channel].flatten()]
        mean = sum(values) / len(values)
        std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        assert data.spec.mean[channel] == pytest.approx(mean, rel=1e-12)
        assert data.spec.std[channel] == pytest.approx(std, rel=1e-12)
    counts = [sum(int(label) == c for label in train.labels) for c in range(2)]
    assert data.spec.class_frequencies == tuple(count / len(train) for count in counts)
    assert (data.spec.name, data.spec.shape, data.spec.num_classes) == ("toy", (2, 3, 5), 2)


def test_large_splits_are_measured_evenly(monkeypatch):
    """Catches a sample from the front only, which would miss the last classes of a sorted set."""
    images = torch.arange(100).to(torch.uint8).view(100, 1, 1, 1).expand(100, 2, 3, 5).clone()
    monkeypatch.setattr(dbl.data.images.measure, "MAX_MEASURED", 10)
    spec = Toy(images=images, validation_share=0).spec
    assert spec.mean == (45.0, 45.0)


def test_identity_follows_the_training_split():
    """Catches an identity that misses a changed pixel, label or cut, or that changes by itself."""
    identity = Toy().spec.identity
    assert Toy(seed=1, batch_size=4).spec.identity == identity
    assert Toy(split_seed=1).spec.identity != identity
    assert Toy(validation_share=0.2).spec.identity != identity
    assert Toy(labels=(torch.arange(100) + 1) % 4).spec.identity != identity
    changed = Toy().load("train").images.clone()
    changed[int(ids(Toy().split("train"))[0]), 1, 2, 4] += 1
    assert Toy(images=changed).spec.identity != identity


def test_class_without_training_image_is_refused():
    """Catches a frequency of 0, and a test class that the network has no output for."""
    with pytest.raises(UserError, match="no image of class 2"):
        _ = Toy(labels=torch.tensor([0, 1, 3] * 10)).spec
    with pytest.raises(UserError, match="class 5 of the test split"):
        Toy(test_labels=torch.tensor([0, 5])).split("test")


def test_splits_that_do_not_match_are_refused():
    """Catches evaluation on images of another shape or scale, and data sets without a needed split."""
    other = ImageSet(torch.zeros(6, 1, 3, 5, dtype=torch.uint8), torch.zeros(6).long())
    with pytest.raises(UserError, match=r"validation images of toy are torch.uint8 \[1, 3, 5\]"):
        Toy(validation=other).split("validation")
    with pytest.raises(UserError, match=r"torch\.float32"):
        Toy(images=torch.zeros(100, 2, 3, 5)).split("test")
    with pytest.raises(UserError, match="no images in its test split"):
        Toy(test_labels=torch.zeros(0).long()).split("test")
    with pytest.raises(UserError, match="validation_share"):
        Toy(validation_share=1.0)
    with pytest.raises(UserError, match="not finite"):
        _ = Toy(images=torch.full((100, 2, 3, 5), float("nan"))).spec


def test_training_batches_follow_block_and_start():
    """Catches a loader that forgets what it was bound to."""

    def read(block, start):
        data = Toy(augmentations=[HorizontalFlip(), PaddedCrop(1)])
        data.bind(block, lambda: start)
        return list(data.train_dataloader())

    through = read(1, 0) + read(1, 11)
    resumed = read(1, 4)
    assert [batch["position"] for batch in resumed] == list(range(4, 15))
    for batch, expected in zip(resumed, through[4:15], strict=True):
        assert torch.equal(batch["index"], expected["index"])
        assert torch.equal(batch["image"], expected["image"])
    assert not torch.equal(read(0, 0)[0]["index"], through[0]["index"])


def test_loaders_pass_on_block_rank_and_seed():
    """Catches loaders that forget a counter: blocks or ranks would see the same batches or augmentations."""
    data = Toy(augmentations=[HorizontalFlip(), PaddedCrop(1)], seed=3)
    data.bind(2, lambda: 5)
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)
    expected = next(iter(TrainingOrder(92, 8, 3, 2, lambda: 5, rank=1, world_size=2)))
    batch = next(iter(data.train_dataloader()))
    assert len(data.split("train")) == 92
    assert torch.equal(batch["index"], expected.indices)
    batches = ImageBatches(data.split("train"), data.augmentations, seed=3, block=2, rank=1)
    assert torch.equal(batch["image"], batches[expected]["image"])
    test = torch.cat([batch["index"] for batch in data.test_dataloader()])
    assert test.tolist() == [*range(8, 16), *range(23, 30)]


def test_workers_make_the_same_batches():
    """Catches randomness that depends on the process, and batches that arrive out of order."""

    def read(num_workers):
        data = Toy(augmentations=[HorizontalFlip(), PaddedCrop(1)], num_workers=num_workers)
        return list(data.train_dataloader()), list(data.test_dataloader())

    for here, there in zip(read(0), read(1), strict=True):
        assert len(here) == len(there) > 1
        for one, other in zip(here, there, strict=True):
            assert one["position"] == other["position"]
            assert all(torch.equal(one[key], other[key]) for key in ("image", "label", "index"))


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader", "predict_dataloader"])
def test_evaluation_reads_every_image_unchanged(loader):
    """Catches a dropped last batch, shuffling, and augmentation of evaluation images."""
    data = Toy(validation_share=0.3, augmentations=[PaddedCrop(1)])
    expected = everything(data.split("validation" if loader == "val_dataloader" else "test"))
    read = torch.cat([batch["image"] for batch in getattr(data, loader)()])
    assert len(read) % data.eval_batch_size != 0
    assert torch.equal(read, expected)


class Recorder(LightningModule):
    """Remembers which images each step saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "validation": [], "predict": []}

    def training_step(self, batch, _):
        self.seen["train"].append((batch["position"], batch["index"].tolist()))
        return self.weight**2

    def validation_step(self, batch, _):
        self.seen["validation"] += batch["index"].tolist()

    def predict_step(self, batch, _):
        self.seen["predict"] += batch["index"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@pytest.mark.filterwarnings("ignore:.*num_workers.*")
def test_lightning_reads_every_batch_in_order(trainer):
    """Catches loaders that Lightning rebuilds, stops early or reads twice."""
    data, module = Toy(validation_share=0.2), Recorder()
    data.bind(0, lambda: trainer.global_step)
    trainer.fit(module, data)
    trainer.predict(module, data)
    assert [position for position, _ in module.seen["train"]] == list(range(20))
    assert len({index for _, indices in module.seen["train"][:10] for index in indices}) == 80
    assert module.seen["validation"] == list(range(20)) * 2
    assert module.seen["predict"] == list(range(30))


@pytest.mark.filterwarnings("ignore:.*num_workers.*")
def test_training_without_validation(trainer):
    """Catches an empty validation loader that stops Lightning."""
    data, module = Toy(validation_share=0), Recorder()
    data.bind(0, lambda: trainer.global_step)
    trainer.fit(module, data)
    assert len(module.seen["train"]) == 24
    assert module.seen["validation"] == []


def test_lightning_does_not_split_over_ranks_again(tmp_path):
    """Catches orders that Lightning would wrap, so that two ranks read only half of the images."""
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", default_root_dir=tmp_path, logger=False)
    data = Toy()
    for loader in (data.train_dataloader(), data.test_dataloader()):
        assert not trainer._data_connector._requires_distributed_sampler(loader)
        plain = torch.utils.data.DataLoader(loader.dataset)
        assert trainer._data_connector._requires_distributed_sampler(plain)


def test_import_is_light():
    """Catches libraries that are loaded although only some data sets need them."""
    heavy = {"datasets", "pyarrow", "sklearn", "torchvision"}
    files = list(Path(dbl.data.__file__).parent.rglob("*.py"))
    assert len(files) > 10
    for file in files:
        for statement in ast.parse(file.read_text()).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module] if isinstance(statement, ast.ImportFrom) else []
            assert heavy.isdisjoint(name.split(".")[0] for name in names), file


def test_single_samples_are_clean():
    """Catches augmented samples where clean ones are asked for, other keys than a loader's, and reordered samples."""
    data = Toy(augmentations=[HorizontalFlip(), PaddedCrop(1)])
    batch = data.batch("train", torch.tensor([7, 2]))
    assert torch.equal(batch["image"], data.split("train").images[torch.tensor([7, 2])])
    assert batch["label"].tolist() == data.split("train").labels[[7, 2]].tolist()
    assert (batch["index"].tolist(), batch["position"]) == ([7, 2], 0)
    assert batch.keys() == next(iter(data.train_dataloader())).keys()
