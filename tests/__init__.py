"""unit/ mirrors the packages, stack/ runs on the real Hypha and Triton, clients/ has clients in their own environments."""
