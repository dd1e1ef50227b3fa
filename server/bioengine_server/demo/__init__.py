"""A first look without any image: nuclei that are drawn, and the model that finds them."""
