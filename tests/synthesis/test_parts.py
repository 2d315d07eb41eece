"""Each part of the synthesis against a slow literal version of the paper's formula."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.oracles import synthesis as oracle
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.synthesis.augment import Affine, ColorOffset, Crop, CropAbout, Noise, Pad, augmented
from phosphene.synthesis.masks import centered, disc, strongest_disc
from phosphene.synthesis.parametrization import Fourier, color_root, precondition
from phosphene.synthesis.priors import total_variation, total_variation_gradient, total_variation_step
from phosphene.synthesis.schedules import cosine, linear
from phosphene.synthesis.step_rules import StepState
from phosphene.synthesis.streams import Streams
from phosphene.synthesis.weights import saliency_weight, share_of_direction


def test_total_variation_is_the_papers_sum() -> None:
    images = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    expected = torch.tensor([oracle.total_variation(image) for image in images], dtype=torch.float64)
    torch.testing.assert_close(total_variation(images), expected)


def test_total_variation_gradient_is_its_derivative() -> None:
    images = torch.rand(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(total_variation(images).sum(), images)
    torch.testing.assert_close(total_variation_gradient(images.detach()), expected)


def test_a_step_of_total_variation_never_overshoots() -> None:
    images = torch.rand(1, 3, 12, 12)
    values = [total_variation(images).item()]
    for _ in range(200):
        images = total_variation_step(images, 0.05)
        values.append(total_variation(images).item())
    assert all(later <= earlier + 1e-4 for earlier, later in pairwise(values))
    assert values[-1] < 0.05 * values[0]


def test_the_disc_is_the_papers_circle() -> None:
    made = disc(torch.tensor([[4, 6], [0, 0]]), torch.tensor([3.0, 2.5]), (9, 11))
    for row, (center, radius) in enumerate([((4, 6), 3.0), ((0, 0), 2.5)]):
        torch.testing.assert_close(made[row, 0].double(), oracle.disc(center, radius, (9, 11)))


def test_a_soft_disc_falls_from_one_to_zero_about_its_radius() -> None:
    line = disc(torch.tensor([[0, 0]]), 5, (1, 12), softness=4)[0, 0, 0]
    assert line.tolist() == [1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]


def test_the_strongest_disc_is_the_papers_argmax() -> None:
    values = torch.rand(3, 15, 18)
    for radius in (0, 2, 5):
        expected = [oracle.strongest_disc(value, radius) for value in values]
        assert [tuple(row) for row in strongest_disc(values, radius).tolist()] == expected


def test_of_equally_strong_discs_the_first_wins() -> None:
    assert strongest_disc(torch.ones(1, 20, 20), 4).tolist() == [[4, 4]]


def test_a_disc_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="radius 5 does not fit into 9 x 20"):
        strongest_disc(torch.rand(1, 9, 20), 5)


def test_the_centered_mask_is_one_between_the_middle_pixels() -> None:
    mask = centered((8, 8), 3.0)[0, 0]
    assert mask.shape == (8, 8)
    torch.testing.assert_close(mask, mask.flip(0))
    assert mask[3, 3].item() == pytest.approx(torch.exp(torch.tensor(-0.5 / 18)).item())


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_preconditioning_is_one_over_f_and_the_color_covariance(size: tuple[int, int]) -> None:
    gradient = torch.randn(1, 3, *size, dtype=torch.float64)
    covariance = (color_root() @ color_root().T).double()
    torch.testing.assert_close(
        precondition(gradient, 1.5)[0], oracle.precondition(gradient[0], 1.5, covariance), rtol=1e-5, atol=1e-6
    )
    one = gradient[:, :1]
    torch.testing.assert_close(precondition(one)[0], oracle.precondition(one[0], 1.0, None), rtol=1e-5, atol=1e-6)


def test_the_preconditioned_gradient_points_uphill() -> None:
    gradient = torch.randn(4, 3, 16, 16)
    assert bool(((precondition(gradient) * gradient).flatten(1).sum(dim=1) > 0).all())


def test_fourier_decodes_what_it_encodes() -> None:
    images = torch.rand(2, 3, 9, 12) * 0.9 + 0.05
    parametrization = Fourier((9, 12))
    torch.testing.assert_close(parametrization.decode(parametrization.encode(images)), images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reading", ["A", "B"])
@pytest.mark.parametrize("steps", [4, 12])
def test_the_weight_follows_equations_2_to_4(reading: str, steps: int) -> None:
    turn, limit = 6, 3.0
    gradients = [torch.randn(1, 3, 5, 5, dtype=torch.float64) for _ in range(steps)]
    mask = disc(torch.tensor([[2, 2]]), 2, (5, 5)).double()
    rule = saliency_weight(reading, lambda _state: mask, limit=limit, turn=turn)  # type: ignore[arg-type]
    memory: dict[str, torch.Tensor] = {}
    seen = [g.abs().amax(dim=1, keepdim=True) if reading == "A" else g for g in gradients]
    history = oracle.cumulative([g[0] for g in seen], 4.0, turn)
    draws = Streams.of(0, ["x"]).at(0)
    for step, gradient in enumerate(gradients):
        state = StepState(step, steps, gradient, gradient, draws, memory)
        expected = gradient[0] * oracle.weight(reading, history[step], seen[step][0], mask[0], limit)
        torch.testing.assert_close(rule(gradient, state)[0], expected)


def test_without_a_weight_the_direction_stays() -> None:
    value = torch.randn(1, 3, 4, 4)
    state = StepState(0, 1, value, value, Streams.of(0, ["x"]).at(0))
    assert saliency_weight("none")(value, state) is value
    with pytest.raises(OptionError, match="weight 'C'"):
        saliency_weight("C")  # type: ignore[arg-type]


def test_the_share_of_the_direction_is_equation_3() -> None:
    assert [share_of_direction(step, steps=300) for step in (0, 149, 150, 299)] == [8, 8, 4, 4]
    assert share_of_direction(0, steps=150) == 4
    assert share_of_direction(0, steps=30) == 4


def test_an_affine_move_is_the_literal_one() -> None:
    images = torch.rand(3, 2, 9, 12, dtype=torch.float64)
    move = Affine(rotation=20, scale=(0.8, 1.3), shift=2)
    draws = Streams.of(7, ["a", "b", "c"]).at(3)
    angle, zoom, y, x = draws.uniform("affine", 4).double().unbind(dim=1)
    for row, image in enumerate(images):
        degrees, shift = (2 * angle[row] - 1) * 20, ((2 * y[row] - 1) * 2, (2 * x[row] - 1) * 2)
        factor = 0.8 * (1.3 / 0.8) ** float(zoom[row])
        expected = oracle.affine(image, float(degrees), factor, (float(shift[0]), float(shift[1])))
        torch.testing.assert_close(move(images, draws)[row], expected)


def test_whole_numbers_and_chosen_scales_are_drawn() -> None:
    move = Affine(rotation=5, scales=(0.9, 1.1), shift=3, whole_degrees=True, whole_pixels=True)
    matrices = [move.matrices(Streams.of(0, range(6)).at(step), (10, 10)) for step in range(40)]
    table = torch.cat(matrices)
    zooms = 1 / torch.hypot(table[:, 0, 0], table[:, 0, 1])
    degrees = torch.rad2deg(torch.atan2(table[:, 0, 1], table[:, 0, 0]))
    shifts = -table[:, :, 2] * 10 / 2
    assert {round(value, 6) for value in zooms.tolist()} == {0.9, 1.1}
    assert {round(value, 4) + 0.0 for value in degrees.tolist()} == {float(value) for value in range(-5, 6)}
    assert {round(value, 4) + 0.0 for value in shifts.flatten().tolist()} == {float(value) for value in range(-3, 4)}


def test_color_offsets_noise_pad_and_crop_do_what_they_say() -> None:
    images = torch.rand(4, 3, 10, 10)
    draws = Streams.of(0, range(4)).at(0)
    offset = ColorOffset(0.2)(images, draws) - images
    assert bool((offset.flatten(2).std(dim=2) < 1e-6).all())
    assert 0 < offset.abs().max() <= 0.2
    noise = Noise(0.1)(images, draws) - images
    assert 0.09 < noise.abs().max() <= 0.1 + 1e-6
    padded = Pad(3)(images, draws)
    assert padded.shape == (4, 3, 16, 16)
    assert torch.equal(Crop((10, 10), corner=(3, 3))(padded, draws), images)
    assert torch.equal(padded[..., 2, 3:13], images[..., 1, :])


def test_a_random_crop_is_a_part_of_each_image() -> None:
    images = torch.arange(400.0).reshape(1, 1, 20, 20).repeat(3, 1, 1, 1)
    corners = set()
    for step in range(30):
        crops = Crop((15, 16))(images, Streams.of(0, "abc").at(step))
        for crop in crops:
            top, left = divmod(int(crop[0, 0, 0]), 20)
            corners.add((top, left))
            assert torch.equal(crop, images[0, :, top : top + 15, left : left + 16])
    assert {top for top, _ in corners} == set(range(6))
    with pytest.raises(OptionError, match="pad them first"):
        Crop((30, 10))(images, Streams.of(0, "abc").at(0))


def test_a_crop_about_a_center_stays_inside_and_belongs_to_its_image() -> None:
    images = torch.rand(3, 2, 20, 24)
    centers = torch.tensor([[10.0, 12.0], [0.0, 0.0], [19.0, 20.0]])
    whole = Streams.of(0, "abc").at(0)
    crops = CropAbout(centers, (7, 8))(images, whole)
    for crop, image, (top, left) in zip(crops, images, [(7, 8), (0, 0), (13, 16)], strict=True):
        assert torch.equal(crop, image[:, top : top + 7, left : left + 8])
    part = CropAbout(centers, (7, 8))(images[1:], replace(whole, rows=(1, 3)))
    assert torch.equal(part, crops[1:])


def test_draws_depend_on_seed_and_target_only() -> None:
    many = Streams.of([1, 2, 3], ["a", "b", "c"]).at(70)
    one = Streams.of([2], ["b"]).at(70)
    assert torch.equal(many.uniform("x", 3)[1:2], one.uniform("x", 3))
    assert torch.equal(many.field("x", (2, 4))[1:2], one.field("x", (2, 4)))
    assert not torch.equal(many.uniform("x", 3)[0], many.uniform("x", 3)[1])
    assert not torch.equal(one.uniform("x", 3), one.under("other").uniform("x", 3))
    assert not torch.equal(one.uniform("x", 3), Streams.of([3], ["b"]).at(70).uniform("x", 3))


def test_augmentations_of_one_kind_draw_different_numbers() -> None:
    images = torch.zeros(1, 1, 4, 4)
    draws = Streams.of(0, ["a"]).at(0)
    once = augmented(images, [ColorOffset(1.0)], draws)
    twice = augmented(images, [ColorOffset(1.0), ColorOffset(1.0)], draws)
    assert not torch.allclose(twice, 2 * once)


def test_schedules_begin_and_end_where_they_say() -> None:
    assert [linear(2, 6)(step, 5) for step in range(5)] == [2, 3, 4, 5, 6]
    assert linear(1, 150, over=149)(149, 400) == 150
    assert linear(1, 150, over=149)(399, 400) == 150
    assert cosine(1, 0)(0, 1) == 1
    assert cosine(1, 0)(9, 10) == pytest.approx(0)


@pytest.mark.parametrize("reading", ["A", "B"])
def test_favored_places_do_not_burn_out(reading: str) -> None:
    """The same steps up everywhere, one place four times as strong: with room it nears white and does not reach it."""
    gradient = torch.full((1, 3, 8, 8), 0.25)
    gradient[..., 4, 4] = 1.0
    ends = {}
    for room in (0.0, 0.3):
        rule = saliency_weight(reading, limit=4.0, room=room)  # type: ignore[arg-type]
        images, memory = torch.full((1, 3, 8, 8), 0.5), dict[str, Tensor]()
        for step in range(3):
            state = StepState(step, 3, images, gradient, Streams.of(0, [1]).at(step), memory)
            images = (images + 0.06 * rule(gradient, state)).clamp(0, 1)
        ends[room] = images[0]
    assert ends[0.0][0, 4, 4] == 1
    assert 0.9 < ends[0.3][0, 4, 4] < 0.999
    assert torch.equal(ends[0.3][:, 0, 0], ends[0.0][:, 0, 0])  # (far from white the steps are whole)
