"""Recordings as Waymo's version 1 has them, written with the messages of the data set's own package and another's framing."""

import zlib

import numpy as np

from chopgrad_ns.sim.waymo_files import angular_velocity, beam_span, heading_box, micros, shutter_times

WAYMO_FROM_OPENCV = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def write_records(path, contents):
    """A TFRecord file, by tensorboard's writer."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for content in contents:
            writer.write(content)
        writer.close()


def write_waymo_v1(path, recording):
    write_records(path, [message.SerializeToString() for message in messages(recording)])


def messages(recording):
    """A `Frame` for each frame."""
    from waymo_open_dataset import dataset_pb2

    for frame in recording.frames:
        message = dataset_pb2.Frame(timestamp_micros=micros(recording, frame))
        message.pose.transform.extend(frame.world_from_vehicle.ravel())
        context(message.context, recording)
        for photo, picture in zip(frame.photos, frame.pictures, strict=True):
            image(message.images.add(), photo, picture, recording)
        for sweep in frame.sweeps:
            laser = message.lasers.add(name=number(dataset_pb2.LaserName, sweep.lidar))
            for kept, values in zip((laser.ri_return1, laser.ri_return2), sweep.returns, strict=True):
                kept.range_image_compressed = packed(values)
            if sweep.pixel_poses is not None:
                laser.ri_return1.range_image_pose_compressed = packed(sweep.pixel_poses)
        for box in frame.boxes:
            label(message.laser_labels.add(), box, frame)
        yield message


def number(names, name):
    return names.Name.Value(name)


def packed(values):
    """A compressed MatrixFloat."""
    from waymo_open_dataset import dataset_pb2

    matrix = dataset_pb2.MatrixFloat(data=values.ravel().tolist())
    matrix.shape.dims.extend(values.shape)
    return zlib.compress(matrix.SerializeToString())


def context(message, recording):
    from waymo_open_dataset import dataset_pb2

    message.name = recording.name
    directions = dataset_pb2.CameraCalibration.RollingShutterReadOutDirection
    for camera in recording.cameras:
        kept = message.camera_calibrations.add(name=number(dataset_pb2.CameraName, camera.name), width=camera.width,
                                               height=camera.height)
        kept.intrinsic.extend([camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2], *camera.distortion])
        kept.extrinsic.transform.extend((camera.vehicle_from_camera @ WAYMO_FROM_OPENCV.T).ravel())
        kept.rolling_shutter_direction = directions.Value(
            {"left": "LEFT_TO_RIGHT", "top": "TOP_TO_BOTTOM", None: "UNKNOWN"}[camera.first_line])
    for lidar in recording.lidars:
        lowest, highest = beam_span(lidar)
        kept = message.laser_calibrations.add(name=number(dataset_pb2.LaserName, lidar.name), beam_inclination_min=lowest,
                                              beam_inclination_max=highest)
        kept.extrinsic.transform.extend(lidar.vehicle_from_lidar.ravel())
        if not lidar.uniform:
            kept.beam_inclinations.extend(lidar.inclinations[::-1])


def image(message, photo, picture, recording):
    from waymo_open_dataset import dataset_pb2

    message.name, message.image = number(dataset_pb2.CameraName, photo.camera), picture
    message.pose.transform.extend(photo.world_from_vehicle.ravel())
    message.velocity.v_x, message.velocity.v_y, message.velocity.v_z = photo.linear_velocity
    message.velocity.w_x, message.velocity.w_y, message.velocity.w_z = angular_velocity(photo)
    message.pose_timestamp, message.shutter = recording.start + photo.time, recording.exposure
    message.camera_trigger_time, message.camera_readout_done_time = shutter_times(photo, recording)


def label(message, box, frame):
    from waymo_open_dataset import label_pb2

    center, heading = heading_box(box, frame.world_from_vehicle)
    message.id, message.type = box.name, label_pb2.Label.Type.Value(f"TYPE_{box.kind.upper()}")
    message.box.center_x, message.box.center_y, message.box.center_z = center
    message.box.length, message.box.width, message.box.height = box.size
    message.box.heading, message.num_lidar_points_in_box = heading, box.points
