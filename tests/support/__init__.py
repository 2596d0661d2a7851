"""What tests share: models, references, doubles, and a browser in a JupyterLab."""
