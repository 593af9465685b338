"""Which voxels and patches are sampled: on maps small enough to draw."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator

from custom.losses.patches import InterPatch, IntraPatch, near_boundary, tile_side, tiles


def seeded(seed=0):
    return Generator().manual_seed(seed)


def blobs(shape, classes=3, seed=0):
    """A map with compact structures of several classes."""
    coarse = torch.randint(classes, (shape[0], 1, *[-(-n // 4) for n in shape[1:]]), generator=seeded(seed)).float()
    return torch.nn.functional.interpolate(coarse, size=shape[1:], mode="nearest").long()


# tiles


@pytest.mark.parametrize(
    ("spatial", "tile", "side"),
    [((256, 256), None, 32), ((96, 96), None, 12), ((72, 64, 40), None, 5), ((8, 8), None, 2), ((256, 256), 10, 10)],
)
def test_a_tile_is_an_eighth_of_the_shortest_side_unless_it_is_given(spatial, tile, side):
    assert tile_side(spatial, tile) == side


def test_tiles_of_a_small_picture():
    """Two columns of tiles; the second one reaches past the edge of the three columns of voxels."""
    assert tiles((1, 2, 3), 2).tolist() == [[[[0, 1, 3, 4], [2, -1, 5, -1]]]]


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 7, 5), (2, 6, 5, 9)])
def test_every_voxel_is_in_one_tile_and_close_to_the_others_in_it(shape):
    positions = tiles(shape, 4)
    assert sorted(positions[positions >= 0].tolist()) == list(range(torch.Size(shape).numel()))
    for tile in positions.flatten(0, -2):
        places = torch.stack(torch.unravel_index(tile[tile >= 0], shape))
        spread = places.amax(dim=1) - places.amin(dim=1)
        assert spread[0] == 0
        assert spread.max() < 4


# the neighbourhood of boundaries


def test_near_means_within_the_radius_of_another_class():
    label = torch.tensor([[[0] * 6 + [1] * 6]])  # a row: the last 0 is at place 5
    assert near_boundary(label, 3)[0, 0].nonzero().flatten().tolist() == [3, 4, 5, 6, 7, 8]
    assert not near_boundary(label, 0).any()
    assert not near_boundary(torch.ones(1, 5, 5), 3).any()


def test_distance_is_measured_in_a_straight_line():
    label = torch.zeros(1, 9, 9, dtype=torch.long)
    label[0, 4, 4] = 1
    near = near_boundary(label, 3)[0]
    assert near[4, 7]
    assert near[6, 6]  # 2.83 away
    assert not near[6, 7]  # 3.61 away
    assert not near[7, 7]


@pytest.mark.parametrize("spatial", [(7, 6), (5, 4, 6)])
def test_near_is_what_a_search_over_all_pairs_finds(spatial):
    label = torch.randint(20, (2, *spatial), generator=seeded(1)).clamp(max=1)  # few zeros among ones
    places = torch.tensor(list(itertools.product(*map(range, spatial)))).float()
    for image, found in zip(label, near_boundary(label, 2), strict=True):
        differ = image.flatten()[:, None] != image.flatten()
        expected = (differ & (torch.cdist(places, places) <= 2 + 1e-6)).any(dim=1)
        assert torch.equal(found.flatten(), expected)


# voxels of boundary patches


def test_voxels_come_from_the_patches_that_hold_more_than_one_class():
    label = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    label[..., 1, 1] = 1  # in the first of four tiles
    label[..., 4:, 4:] = 2  # fills the last one: no boundary within it
    gallery = IntraPatch(tile=4)(label, seeded())
    assert gallery.labels.shape == (1, 16)
    first_tile = {8 * y + x for y in range(4) for x in range(4)}
    assert set(gallery.positions.tolist()) == first_tile
    assert torch.equal(label.flatten()[gallery.positions], gallery.labels[gallery.filled])


def test_voxels_near_the_boundary_come_first():
    label = torch.zeros(1, 1, 16, 16, dtype=torch.long)
    label[..., 8:] = 1
    gallery = IntraPatch(tile=16, pixels=32, radius=2)(label, seeded())  # 2 columns of 16 lie near, on each side
    columns = gallery.positions % 16
    assert sorted(set(columns.tolist())) == [6, 7, 8, 9]
    assert gallery.labels.shape == (1, 64)
    more = IntraPatch(tile=16, pixels=40, radius=2)(label, seeded())  # 8 of each class must come from further away
    assert set(gallery.positions.tolist()) < set(more.positions.tolist())
    assert len(more.positions) == 80


@pytest.mark.parametrize(("shape", "classes"), [((2, 16, 16), 2), ((2, 18, 14), 12), ((2, 9, 8, 10), 4)])
def test_of_each_class_there_are_as_many_as_asked_or_as_there_are(shape, classes):
    label = blobs(shape, classes)
    gallery = IntraPatch(tile=6, pixels=5)(label, seeded())
    grid = tiles(shape, 6).flatten(0, -2)
    in_tiles = torch.where(grid < 0, -1, label.flatten()[grid.clamp(min=0)])
    counts = torch.stack([(in_tiles == k).sum(dim=1) for k in range(classes)], dim=1)
    expected = counts[(counts > 0).sum(dim=1) > 1].clamp(max=5)
    found = torch.stack([(gallery.labels == k).sum(dim=1) for k in range(classes)], dim=1)
    assert len(expected) > 2
    assert torch.equal(found, expected)
    assert len(set(gallery.positions.tolist())) == len(gallery.positions), "no voxel twice"
    assert torch.equal(label.flatten()[gallery.positions], gallery.labels[gallery.filled])


def test_where_there_are_more_patches_than_allowed_some_are_drawn():
    label = blobs((4, 32, 32))
    assert len(IntraPatch(tile=6)(label, seeded()).labels) > 7
    everything = IntraPatch(tile=6, pixels=36, max_tiles=7)  # all voxels of a patch: the patches make the difference
    drawn = [everything(label, seeded(seed)) for seed in (0, 1)]
    assert [len(gallery.labels) for gallery in drawn] == [7, 7]
    assert set(drawn[0].positions.tolist()) != set(drawn[1].positions.tolist())


def test_of_voxels_that_are_alike_some_are_drawn():
    label = torch.zeros(1, 1, 16, 16, dtype=torch.long)
    label[..., 8:] = 1
    drawn = [IntraPatch(tile=16, pixels=5)(label, seeded(seed)) for seed in (0, 1)]
    assert set(drawn[0].positions.tolist()) != set(drawn[1].positions.tolist())


# whole patches


def classes_of(gallery):
    return gallery.labels.tolist()


def patches_of(gallery, side, width):
    """(row, column) of each patch of one picture's grid, by the first voxel that counts."""
    first = [row[row_filled][0].item() for row, row_filled in zip(spread(gallery), gallery.filled, strict=True)]
    return [(p // width // side, p % width // side) for p in first]


def spread(gallery):
    places = torch.full(gallery.filled.shape, -1)
    places[gallery.filled] = gallery.positions
    return places


def test_a_patch_belongs_to_the_class_that_covers_three_quarters_of_it():
    label = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    label[..., 0:2, 0:2] = torch.tensor([[1, 1], [1, 0]])  # 3 of 4
    label[..., 0:2, 2:4] = torch.tensor([[2, 2], [2, 2]])
    label[..., 0:2, 4:6] = torch.tensor([[1, 1], [0, 0]])  # 2 of 4: mixed, left out
    label[..., 0:2, 6:8] = torch.tensor([[1, 1], [2, 2]])  # all foreground, but of no one class
    gallery = InterPatch(tile=2)(label, seeded())
    assert classes_of(gallery) == [1, 2, 0, 0]
    assert patches_of(gallery, 2, 8)[:2] == [(0, 0), (0, 1)]
    assert gallery.filled.all(), "all voxels of a patch count, those of other classes too"
    for seed in range(20):
        background = spread(InterPatch(tile=2)(label, seeded(seed)))[2:]
        assert label.flatten()[background].sum() == 0, "no voxel of a background patch is foreground"


def test_half_of_the_background_are_neighbours_of_foreground():
    label = torch.zeros(1, 1, 32, 32, dtype=torch.long)
    label[..., 8:12, 8:12] = 1  # four tiles of side 2, in rows and columns 4 and 5; twelve adjoin them
    around = {(y, x) for y in range(3, 7) for x in range(3, 7)}
    drawn = set()
    for seed in range(8):
        gallery = InterPatch(tile=2)(label, seeded(seed))
        assert classes_of(gallery) == [1, 1, 1, 1, 0, 0, 0, 0]
        background = patches_of(gallery, 2, 32)[4:]
        assert len(set(background)) == 4
        assert sum(place in around for place in background) == 2
        drawn |= set(background)
    assert len(drawn) > 16, "other seeds draw others"


def test_in_3d_the_26_adjoining_cubes_are_neighbours():
    label = torch.zeros(1, 1, 10, 10, 10, dtype=torch.long)
    label[..., 4:6, 4:6, 4:6] = 1  # the middle one of 5 x 5 x 5 cubes
    near, far = InterPatch._background(torch.ones(1, 5, 5, 5) > 0, torch.arange(125).reshape(1, 5, 5, 5) == 62)
    assert (len(near), len(far)) == (27, 98)  # the cube itself adjoins, but is never empty
    gallery = InterPatch(tile=2)(label, seeded())
    assert classes_of(gallery) == [1, 0]
    corner = torch.stack(torch.unravel_index(spread(gallery)[1, 0], (10, 10, 10))) // 2
    assert (corner - 2).abs().max() == 1, "the one half of one, rounded up, is a neighbour"


def test_where_one_kind_of_background_is_short_the_other_fills_in():
    label = torch.ones(1, 1, 4, 16, dtype=torch.long)
    label[..., 10:] = 0  # ten tiles of class 1, six of background: two of them adjoin
    assert classes_of(InterPatch(tile=2)(label, seeded())).count(0) == 6
    label[..., :] = 0
    label[..., 4:8] = 1  # four tiles of class 1; of twelve of background four adjoin
    assert classes_of(InterPatch(tile=2)(label, seeded())).count(0) == 4
    label[..., :] = 0
    label[..., 1::4, 3::4] = 1  # no tile is filled, and there is background in neighbours alone
    gallery = InterPatch(tile=2)(label, seeded())
    assert classes_of(gallery) == [1, 0]


def test_a_lesion_too_small_for_a_patch_stands_for_itself():
    label = torch.zeros(2, 1, 8, 8, dtype=torch.long)
    label[0, 0, 3, 3] = 1  # one voxel in the first of four tiles, two in the second
    label[0, 0, 3, 4:6] = 1
    label[1, 0, :4, :4] = 1  # fills a tile in the other picture
    label[1, 0, 6, 6] = 2  # another class, small
    gallery = InterPatch(tile=4)(label, seeded())
    assert classes_of(gallery) == [1, 1, 2, 0, 0, 0]
    rows = [places[places >= 0].tolist() for places in spread(gallery)]
    assert rows[0] == [64 + 8 * y + x for y in range(4) for x in range(4)]
    assert rows[1] == [8 * 3 + 4, 8 * 3 + 5], "its fullest patch, and of that its own voxels"
    assert rows[2] == [64 + 8 * 6 + 6]


def test_what_adjoins_a_small_lesion_is_a_neighbour():
    label = torch.zeros(1, 1, 32, 32, dtype=torch.long)
    label[..., 16, 16] = 1  # in row and column 8 of the tiles
    for seed in range(4):
        _, (row, column) = patches_of(InterPatch(tile=2)(label, seeded(seed)), 2, 32)
        assert max(abs(row - 8), abs(column - 8)) == 1


def test_tiles_past_the_edge_count_the_voxels_that_they_have():
    label = torch.zeros(1, 1, 8, 5, dtype=torch.long)
    label[..., 0:3, 4] = 1  # three of the four voxels of the tile in the corner: it is filled, and counts as a whole
    gallery = InterPatch(tile=4)(label, seeded())
    assert classes_of(gallery) == [1, 0]
    assert gallery.filled[0].sum() == 4


# both


@pytest.mark.parametrize("sampling", [IntraPatch(tile=4, pixels=3), InterPatch(tile=4)])
def test_the_same_seed_samples_the_same_and_another_one_others(sampling):
    label = torch.zeros(2, 1, 32, 32, dtype=torch.long)
    label[..., 6:20, 10:24] = 1
    one, same, other = (sampling(label, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.positions, same.positions)
    assert torch.equal(one.labels, same.labels)
    assert one.positions.tolist() != other.positions.tolist()


@pytest.mark.parametrize("sampling", [IntraPatch(), InterPatch()])
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 1, 4, 4, 4)])
def test_without_foreground_there_is_nothing_to_compare(sampling, shape):
    gallery = sampling(torch.zeros(shape, dtype=torch.long), seeded())
    assert len(gallery.positions) == len(gallery.labels) == len(gallery.filled) == 0
    assert gallery.arrange(torch.zeros(0, 5)).shape == (*gallery.filled.shape, 5)


def test_rows_are_arranged_in_their_places():
    label = torch.zeros(1, 1, 4, 8, dtype=torch.long)
    label[..., 0, 0] = 1  # 1 + 15 voxels in the first tile, 2 + 14 in the second
    label[..., 0, 6:] = 1
    gallery = IntraPatch(tile=4, pixels=2)(label, seeded())
    rows = gallery.positions[:, None].double().requires_grad_()
    arranged = gallery.arrange(rows)
    assert arranged.shape == (2, 4, 1)
    assert torch.equal(label.flatten()[arranged.long().squeeze(-1)][gallery.filled], gallery.labels[gallery.filled])
    assert gallery.labels.tolist() == [[0, 0, 1, -1], [0, 0, 1, 1]]
    arranged.sum().backward()
    assert torch.equal(rows.grad, torch.ones_like(rows))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: IntraPatch(tile=1), "tile is the side of a patch in voxels, at least 2, got 1"),
        (lambda: InterPatch(tile=0), "tile is the side of a patch in voxels, at least 2, got 0"),
        (lambda: IntraPatch(pixels=0), "expected pixels and max_tiles of at least 1 .* got pixels 0, max_tiles 256"),
        (lambda: IntraPatch(max_tiles=0), "got pixels 32, max_tiles 0, radius 3"),
        (lambda: IntraPatch(radius=-1), "a radius of at least 0, got .* radius -1"),
        (lambda: InterPatch(share=0.5), r"share is in \(0.5, 1\], got 0.5"),
        (lambda: InterPatch(share=1.1), r"share is in \(0.5, 1\], got 1.1"),
    ],
)
def test_wrong_settings_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()
