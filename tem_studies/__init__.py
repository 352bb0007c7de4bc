"""What is studied with tem_tf: the program `tem-tf`, also main.py, and its parts.

A package without TensorFlow at its top, so that settings are checked before it starts.
"""
