"""Where models run: a Triton as the dispatcher sees it."""
