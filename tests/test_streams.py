"""Streams: every item, every voxel, the same patches again when an epoch is restarted and others in the next."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from custom.stream.augment import Augmentation, Brightness, Flip, Gamma, Intensity, Noise, Rotate, Scale, Spatial
from custom.stream.bank import Bank
from custom.stream.stream import Stream

PARTS: list[Spatial | Intensity] = [Rotate(), Scale(), Flip(), Gamma(), Noise()]


def make_bank(folder, cases=3, shape=(12, 10, 5), slices=False, keys=("image", "label"), modalities=0):
    """Images whose voxels count 1, 2, 3, ... (never 0, which is padding); case i has the class i + 1 in one voxel."""
    data: list[dict] = []
    for case in range(cases):
        image, label = np.arange(1, np.prod(shape) + 1).reshape(shape), np.zeros(shape)
        label[case + 1, case + 2, 1] = case + 1
        paths = []
        for name, array in (("image", image), ("label", label)):
            paths.append(str(folder / f"p{case:02d}_{name}.nii.gz"))
            nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), paths[-1])
        data.append({"image": paths[0], "label": paths[1]})
    if modalities:  # the last case lacks the second modality
        for case, entry in enumerate(data):
            entry["image"] = {"flair": entry["image"], "t1ce": entry["image"] if case < cases - 1 else None}
    transform = Compose([LoadImaged(keys), EnsureChannelFirstd(keys)])
    return Bank(data, transform, keys, slices, channels=("flair", "t1ce")[:modalities])


def same(one, other):
    return torch.equal(one.image, other.image) and one.cases == other.cases


@pytest.mark.parametrize(("slices", "patch"), [(True, (8, 6)), (False, (8, 6, 4))])
def test_a_batch_has_the_promised_shapes(tmp_path, slices, patch):
    augmentation = Augmentation(PARTS, strong=[Brightness(prob=1)])
    batch = Stream(make_bank(tmp_path, slices=slices), 4, patch, augmentation, foreground=0.5).draw(strong_views=1)
    assert len(batch) == 4
    assert batch.label is not None
    assert batch.present is not None
    assert batch.image.shape == batch.strong[0].image.shape == (4, 1, *patch)
    assert batch.label.shape == (4, 1, *patch)
    assert (batch.image.dtype, batch.strong[0].image.dtype, batch.label.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    assert batch.present.tolist() == [[True]] * 4
    assert len(batch.cases) == 4
    assert batch.cases[0].startswith("p0")
    assert Stream(make_bank(tmp_path, slices=slices), 4, patch, PARTS).draw().strong == ()


def test_images_in_2d_are_channels_last_on_a_cpu(tmp_path):
    batch = Stream(make_bank(tmp_path, slices=True, modalities=2), 4, (8, 6), PARTS).draw()
    assert batch.image.is_contiguous(memory_format=torch.channels_last)


def test_the_label_belongs_to_the_image(tmp_path):
    """A patch without augmentation counts the voxels of its place, and the label's place follows from the count."""
    bank = make_bank(tmp_path, cases=1)
    stream = Stream(bank, 4, (6, 6, 4), foreground=1.0)
    truth = bank[0]["label"].flatten()
    for _ in range(5):
        batch = stream.draw()
        assert batch.label is not None
        expected = truth[batch.image.long().flatten() - 1]
        assert torch.equal(batch.label.flatten(), expected.long())
        assert (batch.label.flatten(1).amax(1) == 1).all()


def test_a_batch_goes_into_the_usual_loss(tmp_path):
    batch = Stream(make_bank(tmp_path, slices=True), 4, (8, 6), PARTS).draw()
    loss = DiceCELoss(to_onehot_y=True, softmax=True)(torch.zeros(4, 4, 8, 6), batch.label)
    assert loss.isfinite()


def test_restarting_an_epoch_gives_the_same_patches(tmp_path):
    bank = make_bank(tmp_path, slices=True)
    first, resumed = (Stream(bank, 4, (8, 6), PARTS, foreground=0.5, seed=7) for _ in range(2))
    first.start(2)
    drawn = [first.draw() for _ in range(6)]
    first.draw()
    for stream in (first, resumed):
        stream.start(2)
        assert all(same(batch, stream.draw()) for batch in drawn)


def test_epochs_do_not_replay_each_other(tmp_path):
    stream = Stream(make_bank(tmp_path, slices=True), 4, (8, 6), PARTS)
    epochs = []
    for epoch in range(4):
        stream.start(epoch)
        epochs.append([stream.draw() for _ in range(3)])
    batches = [batch for epoch in epochs for batch in epoch]
    assert not any(same(one, other) for i, one in enumerate(batches) for other in batches[:i])


@pytest.mark.parametrize("other", [{"seed": 1}, {"rank": 1}, {"name": "unlabelled"}])
def test_seeds_ranks_and_names_draw_apart(tmp_path, other):
    bank = make_bank(tmp_path, slices=True)
    assert not same(Stream(bank, 4, (8, 6), PARTS).draw(), Stream(bank, 4, (8, 6), PARTS, **other).draw())


def test_every_item_is_seen_before_any_is_repeated(tmp_path):
    """15 slices in batches of 4: any 15 patches in a row from a multiple of 15 on are the 15 slices."""
    stream = Stream(make_bank(tmp_path, slices=True), 4, (8, 6))
    seen = [case for _ in range(15) for case in stream.draw().cases]
    rounds = [seen[start : start + 15] for start in range(0, 60, 15)]
    assert all(len(set(names)) == 15 for names in rounds)
    assert rounds[0] != rounds[1]


@pytest.mark.parametrize("batches", [1, 3, 4])
def test_short_epochs_go_on_in_one_order(tmp_path, batches):
    """Each began a permutation of its own: 20 epochs of 240 patches saw 3,091 of 5,000 items, 1,112 of them twice."""
    bank = make_bank(tmp_path, slices=True)
    stream, whole = Stream(bank, 4, (8, 6)), Stream(bank, 4, (8, 6))
    seen = []
    for epoch in range(1, 16):
        stream.start(epoch, (epoch - 1) * batches)
        seen += [case for _ in range(batches) for case in stream.draw().cases]
    rounds = [seen[start : start + 15] for start in range(0, 60 * batches, 15)]
    assert all(len(set(names)) == 15 for names in rounds)
    assert len(set(map(tuple, rounds))) == len(rounds), "each in another order"
    assert seen == [case for _ in range(15 * batches) for case in whole.draw().cases]


def test_an_epoch_that_is_begun_by_another_process_has_the_same_patches(tmp_path):
    bank = make_bank(tmp_path, slices=True)
    first, resumed = (Stream(bank, 4, (8, 6), PARTS, foreground=0.5, seed=7) for _ in range(2))
    for epoch in (1, 2, 3):
        first.start(epoch, 3 * (epoch - 1))
        drawn = [first.draw() for _ in range(3)]
    resumed.start(3, 6)
    assert all(same(batch, resumed.draw()) for batch in drawn)


def test_a_table_smaller_than_the_batch_repeats(tmp_path):
    names = Stream(make_bank(tmp_path, cases=2), 6, (8, 6, 4)).draw().cases
    assert sorted(names) == ["p00_image"] * 3 + ["p01_image"] * 3


@pytest.mark.parametrize("patch", [(5, 6, 4), (12, 3, 5)])
def test_edges_are_seen(tmp_path, patch):
    """Every voxel of the image appears; and no padding, where the patch fits into the image."""
    stream = Stream(make_bank(tmp_path, cases=1), 50, patch)
    seen = torch.cat([stream.draw().image.flatten() for _ in range(20)]).unique()
    assert seen.tolist() == list(range(1, 12 * 10 * 5 + 1))


def test_positions_are_uniform(tmp_path):
    """Patches of 10 in 12 voxels begin at 0, 1 or 2, a third each."""
    stream = Stream(make_bank(tmp_path, cases=1), 600, (10, 10, 5))
    starts = (stream.draw().image[:, 0, 0, 0, 0].long() - 1) // (10 * 5)
    assert [(starts == start).sum().item() for start in range(3)] == pytest.approx([200, 200, 200], abs=45)


def test_an_image_smaller_than_the_patch_lies_in_its_middle(tmp_path):
    """12 in 16: 2 before, 2 after; 10 in 13: one of the three voxels goes to either side, one to spare."""
    bank = make_bank(tmp_path, cases=1)
    batch = Stream(bank, 2, (16, 13, 5), foreground=0.5).draw()
    assert batch.image.count_nonzero(dim=(1, 2, 3, 4)).tolist() == [600, 600]
    torch.testing.assert_close(batch.image[0, :, 2:14, 2:12], bank[0]["image"])


def test_foreground_patches_hold_their_class_as_often_as_asked(tmp_path):
    """One voxel of foreground in 12 x 10 x 5; a patch of one voxel hits it by chance once in 600."""
    bank = make_bank(tmp_path, cases=1)
    for share in (0.0, 0.4, 1.0):
        label = Stream(bank, 500, (1, 1, 1), foreground=share).draw().label
        assert label is not None
        assert label.bool().float().mean().item() == pytest.approx(share, abs=0.07)


def test_foreground_gives_every_class_the_same_chance(tmp_path):
    bank = make_bank(tmp_path, cases=1)
    bank.load()
    bank._scans[0].label[:] = 0
    bank._foreground = [{1: torch.arange(100, dtype=torch.int32), 2: torch.tensor([599], dtype=torch.int32)}]
    voxels = Stream(bank, 600, (1, 1, 1), foreground=1.0).draw().image.flatten()
    assert (voxels == 600).float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert len(voxels[voxels <= 100].unique()) > 80


def test_foreground_patches_at_the_edge_show_no_padding(tmp_path):
    bank = make_bank(tmp_path, cases=3)  # the voxel of case 0 is 1 from two edges
    batch = Stream(bank, 9, (8, 8, 4), foreground=1.0).draw()
    assert batch.image.min() > 0
    assert batch.label is not None
    assert (batch.label.flatten(1).amax(1) > 0).all()


def test_an_absent_channel_stays_zero_under_noise(tmp_path):
    bank = make_bank(tmp_path, slices=True, modalities=2)
    augmentation = Augmentation([Rotate(), Noise(prob=1)], strong=[Noise(prob=1)])
    batch = Stream(bank, 15, (8, 6), augmentation).draw(strong_views=1)
    assert batch.present is not None
    absent = ~batch.present
    assert absent.sum() == 5  # the five slices of the last case
    assert batch.image[absent].count_nonzero() == batch.strong[0].image[absent].count_nonzero() == 0
    assert (batch.image[batch.present].flatten(1).std(dim=1) > 0).all()


def test_the_unlabelled_stream_has_no_label(tmp_path):
    bank = make_bank(tmp_path, keys=("image",))
    assert Stream(bank, 2, (8, 6, 4), PARTS).draw().label is None
    assert Stream(bank, 2, (8, 6, 4), PARTS).empty().label is None
    with pytest.raises(ValueError, match=r"foreground is 0.5, but its bank reads no label"):
        Stream(bank, 2, (8, 6, 4), foreground=0.5)


def test_an_empty_batch_has_the_shapes_and_reads_nothing(tmp_path):
    bank = make_bank(tmp_path, modalities=2)
    batch = Stream(bank, 4, (8, 6, 4), PARTS).empty()
    assert len(batch) == 0
    assert batch.label is not None
    assert batch.present is not None
    assert batch.image.shape == (0, 2, 8, 6, 4)
    assert (batch.label.shape, batch.label.dtype) == ((0, 1, 8, 6, 4), torch.int64)
    assert batch.present.shape == (0, 2)
    assert bank._scans is None


def test_an_empty_bank_gives_empty_batches_only():
    stream = Stream(Bank([], lambda case: case, keys=("image",)), 4, (8, 6), name="unlabelled")
    assert stream.empty().image.shape == (0, 1, 8, 6)
    with pytest.raises(ValueError, match=r"unlabelled stream: nothing to draw from, its data list is empty"):
        stream.draw()


def test_a_patch_of_other_dimensions_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"patch \(8, 6\) has 2 axes, p0\d_image has the shape \(12, 10, 5\)"):
        Stream(make_bank(tmp_path), 4, (8, 6)).draw()
    with pytest.raises(ValueError, match=r"patch \(8, 6, 4\) has 3 axes, p0\d_image slice \d .* \(12, 10\)"):
        Stream(make_bank(tmp_path, slices=True), 4, (8, 6, 4)).draw()


def test_nonsense_is_refused(tmp_path):
    bank = make_bank(tmp_path)
    with pytest.raises(ValueError, match=r"foreground is a probability in \[0, 1\], got 2"):
        Stream(bank, 4, (8, 6, 4), foreground=2)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        Stream(bank, 0, (8, 6, 4))
