"""Builds the native engine; everything else of the package is in pyproject.toml.

The extension is optional: if there is no C compiler or no Python.h, the package is installed without it, and vethd runs
on the asyncio engine. An error in the extension's own source is still an error.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("vethd/datapath")

setup(
    ext_modules=[
        Extension(
            "vethd.datapath._native",
            sources=[str(NATIVE / "_native.pyx")],
            depends=sorted(str(path) for path in NATIVE.glob("*.px[di]")),
            # frames are read through pointers of other types, as in the kernel
            extra_compile_args=["-O2", "-fno-strict-aliasing", "-pthread"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
