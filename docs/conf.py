"""How Sphinx builds the documentation."""

import flaxrnn

project = "flaxrnn"
author = "the developers of flaxrnn"
version = release = flaxrnn.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"flaxrnn {version}"
exclude_patterns = ["_build"]

default_role = "code"  # single backticks in docstrings are code
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_use_ivar = True  # fields are described once, in the docstring of the class
napoleon_custom_sections = ["How it differs from other frameworks"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# every example runs when the documentation is built, and an error in one stops the build
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
