from __future__ import annotations

import math

import torch

from mask2former.modeling.position_encoding import sine_2d, sine_3d

CPU = torch.device("cpu")


def test_first_half_is_y_second_is_x() -> None:
    code = sine_2d(5, 7, 16, device=CPU)
    assert code.shape == (16, 5, 7)
    assert torch.equal(code[:8, :, :1].expand(-1, -1, 7), code[:8])
    assert torch.equal(code[8:, :1, :].expand(-1, 5, -1), code[8:])


def test_fastest_wave_turns_once_over_the_map() -> None:
    code = sine_2d(4, 4, 8, device=CPU)
    expected = torch.tensor([math.sin(2 * math.pi * i / 4) for i in (1, 2, 3, 4)])
    torch.testing.assert_close(code[0, :, 0], expected, atol=1e-5, rtol=0)


def test_with_a_period_the_code_does_not_depend_on_the_size() -> None:
    small = sine_2d(4, 6, 16, period=8.0, device=CPU)
    large = sine_2d(9, 13, 16, period=8.0, device=CPU)
    torch.testing.assert_close(small, large[:, :4, :6])
    assert not torch.allclose(
        sine_2d(4, 6, 16, device=CPU), sine_2d(9, 13, 16, device=CPU)[:, :4, :6]
    )


def test_fastest_wave_repeats_after_the_period() -> None:
    code = sine_2d(1, 17, 16, period=8.0, device=CPU)
    torch.testing.assert_close(code[8, 0, :9], code[8, 0, 8:], atol=1e-5, rtol=0)


def test_periods_of_two_strides_agree_in_pixels() -> None:
    """A cell's code is that of its centre in pixels, whatever the stride."""
    for stride, cells in ((4, 8), (8, 4)):
        code = sine_2d(1, cells, 4, stride=stride, period=16.0, device=CPU)[2, 0]
        centres = (torch.arange(cells) + 0.5) * stride
        torch.testing.assert_close(code, (centres / 16 * 2 * math.pi).sin(), atol=1e-5, rtol=0)


def test_origin_moves_a_map_on_a_larger_canvas() -> None:
    whole = sine_2d(10, 14, 16, stride=8, period=64.0, device=CPU)
    part = sine_2d(4, 5, 16, stride=8, period=64.0, origin=(16, 32), device=CPU)
    torch.testing.assert_close(part, whole[:, 2:6, 4:9])


def test_time_is_added_to_the_plane() -> None:
    code, plane = sine_3d(3, 4, 5, 8, device=CPU), sine_2d(4, 5, 8, device=CPU)
    time = code - plane
    assert code.shape == (3, 8, 4, 5)
    torch.testing.assert_close(time, time[..., :1, :1].expand_as(time), atol=1e-6, rtol=0)
    assert not torch.allclose(time[0], time[1])
