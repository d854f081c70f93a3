"""Frames as pictures (PS3.18 8.3.5, PS3.4 N.2): the pipeline from stored values to JPEG, PNG or GIF.

Worker processes only: numpy, pydicom and Pillow are not imported by the node itself.
"""
