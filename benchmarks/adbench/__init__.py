"""ADBench's four problems in tracegrad, JAX, PyTorch and HIPS autograd: what a derivative costs beside its function.

The problems are those of F. Srajer, Z. Kukelova, A. Fitzgibbon, "A benchmark of selected algorithmic differentiation tools on some problems in
computer vision and machine learning" (Optimization Methods and Software, 2018), formulated again from their mathematics, on synthetic data of
ADBench's sizes. `python benchmarks/adbench` measures them; `benchmarks/README.md` says how and shows a table.
"""
