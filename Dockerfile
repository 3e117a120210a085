# cellfeat for a CPU; with --build-arg TORCH_INDEX=https://pypi.org/simple for NVIDIA GPUs, whose CUDA libraries then come as
# wheels: the host needs a driver and the NVIDIA Container Toolkit, the image no CUDA of its own. How to use both: docs/install.md
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE MANIFEST.in ./
COPY cellfeat cellfeat
COPY plugins plugins
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# First, because PyPI's own wheels of torch bring CUDA, which a CPU does not need.
RUN python -m pip install --index-url "$TORCH_INDEX" "torch>=2.9" torchvision
COPY --from=wheel /wheels /wheels
RUN python -m pip install "$(ls /wheels/cellfeat-*.whl)${EXTRAS:+[$EXTRAS]}" && rm -r /wheels

# Anybody may write here, so that --user "$(id -u):$(id -g)" works and results belong to whoever started it.
RUN useradd --create-home --uid 1000 cellfeat && install -d -m 1777 /cache
ENV CELLFEAT_CACHE=/cache HF_HOME=/cache/huggingface MPLCONFIGDIR=/cache/matplotlib
VOLUME /cache
USER cellfeat
WORKDIR /data
RUN cellfeat --version
ENTRYPOINT ["cellfeat"]
CMD ["--help"]
