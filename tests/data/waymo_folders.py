"""Waymo's components on disk: altered for tests, and two readings compared."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from chopgrad_ns.data.drives.drive import Selection
from tests.data.waymo_recording import SIZE

SEGMENT = "street_000.parquet"
ALL = Selection(cameras=tuple(SIZE))


def alter(folder, component, change):
    """Rewrite a component with its table changed."""
    path = folder / component / SEGMENT
    pq.write_table(change(pq.read_table(path)), path)


def put(column, row, value):
    """A change of one value, or of all."""
    def change(table):
        values = table.column(column).to_pylist()
        values = [value] * len(values) if row is None else [*values[:row], value, *values[row + 1:]]
        at = table.column_names.index(column)
        return table.set_column(at, column, pa.array(values, table.schema.field(column).type))
    return change


def cast(column, kind):
    return lambda table: table.set_column(table.column_names.index(column), column,
                                          pa.array(table.column(column).to_pylist(), kind))


def same(read, kept, tolerance=0.0):
    """Two readings of one recording."""
    assert read.lidars == kept.lidars and list(read.cameras) == list(kept.cameras) and read.notes == kept.notes
    assert np.abs(read.times - kept.times).max() <= tolerance
    assert np.abs(read.world_from_vehicle - kept.world_from_vehicle).max() <= tolerance
    assert len(read.photos) == len(kept.photos) and len(read.actors) == len(kept.actors)
    for one, other in zip(read.photos, kept.photos, strict=True):
        assert (one.camera, one.frame) == (other.camera, other.frame) and one.shutter == other.shutter
        assert one.time == other.time and np.abs(one.world_from_vehicle - other.world_from_vehicle).max() <= tolerance
        assert np.abs(one.linear_velocity - other.linear_velocity).max() <= tolerance
        assert np.abs(one.angular_velocity - other.angular_velocity).max() <= tolerance
        assert read.source.picture(one) == kept.source.picture(other)
    for one, other in zip(read.actors, kept.actors, strict=True):
        assert (one.name, one.kind) == (other.name, other.kind) and torch.equal(one.present, other.present)
        assert (one.world_from_actor - other.world_from_actor).abs().max() <= tolerance
        assert (one.size - other.size).abs().max() <= tolerance
    for frame in range(len(read)):
        one, other = read.source.points(frame), kept.source.points(frame)
        assert len(one) == len(other) and np.abs(one.xyz - other.xyz).max() <= tolerance
        assert all((getattr(one, name) == getattr(other, name)).all() for name in ("intensity", "returns", "lidar"))
