"""The nerfstudio method ``chopgrad-refine``."""
