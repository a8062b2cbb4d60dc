"""Conversion between the pixel formats of video frames, without bias."""

from collections.abc import Callable
from fractions import Fraction

import av


def converter(pix_fmt: str) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """A function that gives frames in another FFmpeg pixel format.

    PyAV's own `reformat` rounds down, which darkens by up to one level of 256 each time.
    """
    graph, seen = None, None

    def convert(frame: av.VideoFrame) -> av.VideoFrame:
        nonlocal graph, seen
        kind = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
        if kind != seen:
            graph, seen = _graph(frame, pix_fmt), kind
        graph.push(frame)
        return graph.pull()

    return convert


def _graph(frame: av.VideoFrame, pix_fmt: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name,
                              time_base=frame.time_base or Fraction(1, 25))
    accurate = graph.add("scale", "flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp")
    graph.link_nodes(source, accurate, graph.add("format", f"pix_fmts={pix_fmt}"), graph.add("buffersink")).configure()
    return graph
