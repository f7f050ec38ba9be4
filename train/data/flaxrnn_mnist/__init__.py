"""MNIST as a tensorflow-datasets builder that needs neither TensorFlow nor a network: the images lie beside it."""
