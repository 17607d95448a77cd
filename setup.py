"""Builds the native engine; everything else of the package is in pyproject.toml.

The extension is optional: where there is no C compiler, or no Python.h, the package is installed without it, and vethd
runs on the asyncio engine. An error in its own source is still one.
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
            # frames are read through pointers of other types, as the kernel does it
            extra_compile_args=["-O2", "-fno-strict-aliasing", "-pthread"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
