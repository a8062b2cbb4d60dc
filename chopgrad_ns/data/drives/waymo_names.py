"""Names and numbers of Waymo's formats: cameras, lidars, kinds of actors, and the columns of v2's parquet files."""

from __future__ import annotations

import numpy as np

CAMERAS = {"FRONT": 1, "FRONT_LEFT": 2, "FRONT_RIGHT": 3, "SIDE_LEFT": 4, "SIDE_RIGHT": 5, "REAR_LEFT": 6, "REAR": 7,
           "REAR_RIGHT": 8}
USUAL = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT")
"""In front and of one size; the cameras at the sides have lower pictures."""
LIDARS = {"TOP": 1, "FRONT": 2, "SIDE_LEFT": 3, "SIDE_RIGHT": 4, "REAR": 5}
KINDS = {"vehicle": 1, "pedestrian": 2, "sign": 3, "cyclist": 4}
DIRECTIONS = {"top": 1, "left": 2, "bottom": 3, "right": 4}
"""Of a rolling shutter, by the side that is exposed first; 0 is unknown."""
GLOBAL_SHUTTER = 5

WAYMO_FROM_OPENCV = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Of cameras: Waymo's look along x, with y to the left and z up."""

REQUIRED = ("vehicle_pose", "camera_calibration", "camera_image")
OPTIONAL = ("lidar", "lidar_calibration", "lidar_pose", "lidar_box")
"""Components, each a folder with a parquet file for every segment."""

SEGMENT = "key.segment_context_name"
TIME = "key.frame_timestamp_micros"
CAMERA = "key.camera_name"
LIDAR = "key.laser_name"
TRACK = "key.laser_object_id"

VEHICLE_POSE = "[VehiclePoseComponent].world_from_vehicle.transform"

INTRINSIC = "[CameraCalibrationComponent].intrinsic."
LENS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
CAMERA_EXTRINSIC = "[CameraCalibrationComponent].extrinsic.transform"
WIDTH = "[CameraCalibrationComponent].width"
HEIGHT = "[CameraCalibrationComponent].height"
DIRECTION = "[CameraCalibrationComponent].rolling_shutter_direction"

IMAGE = "[CameraImageComponent].image"
IMAGE_POSE = "[CameraImageComponent].pose.transform"
LINEAR = "[CameraImageComponent].velocity.linear_velocity."
ANGULAR = "[CameraImageComponent].velocity.angular_velocity."
IMAGE_TIME = "[CameraImageComponent].pose_timestamp"
EXPOSURE = "[CameraImageComponent].rolling_shutter_params.shutter"
TRIGGER = "[CameraImageComponent].rolling_shutter_params.camera_trigger_time"
READ_OUT = "[CameraImageComponent].rolling_shutter_params.camera_readout_done_time"

LIDAR_EXTRINSIC = "[LiDARCalibrationComponent].extrinsic.transform"
INCLINATION = "[LiDARCalibrationComponent].beam_inclination."
RETURNS = ("[LiDARComponent].range_image_return1.", "[LiDARComponent].range_image_return2.")
PIXEL_POSES = "[LiDARPoseComponent].range_image_return1."

BOX_CENTER = "[LiDARBoxComponent].box.center."
BOX_SIZE = "[LiDARBoxComponent].box.size."
BOX_HEADING = "[LiDARBoxComponent].box.heading"
BOX_KIND = "[LiDARBoxComponent].type"
BOX_POINTS = "[LiDARBoxComponent].num_lidar_points_in_box"
BOX_SPEED = "[LiDARBoxComponent].speed."
