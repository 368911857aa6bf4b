"""The names that Triton's model configurations and the models themselves share; docs/triton.md explains them.

Standard library only: export/triton_repository.py writes them without a server.
"""

IMAGE = "IMAGE"  # bytes [N, 1]: a JPEG, PNG, … file
TASK = "TASK"  # bytes [N, 1], optional: panoptic, instance or semantic
LABEL_MAP = "LABEL_MAP"  # int32 [N, H, W], at the image's size
SEGMENTS = "SEGMENTS"  # bytes [N, 1]: JSON, as segment_entries.describe
# int32 [N, 4]: height and width of the resized image within the network's input, then of the original image
GEOMETRY = "GEOMETRY"

# Parameters of a model's configuration, and the folder of the engine or its description beside model.py.
TASK_PARAMETER = "task"
THREADS_PARAMETER = "threads"
ENGINE_FOLDER = "engine"
