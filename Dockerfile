# The package with its programs, for CPUs, GPUs or TPUs:
#   docker build --build-arg EXTRA=tpu,gcs --tag prompt-tuning:tpu .
#   docker run prompt-tuning:tpu train --help
FROM python:3.11-slim

# Extras of the package: gpu, tpu, several as in gpu,gcs, or none for CPUs.
ARG EXTRA=""

ENV PYTHONUNBUFFERED=1
# What NVIDIA's container runtime hands in; without it they mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# By its number, clusters see that the user is not root.
RUN useradd --create-home --uid 10001 prompt_tuning
WORKDIR /home/prompt_tuning/source
# The dependencies, of a package without sources: this layer stays as it is when only the sources change.
COPY pyproject.toml setup.py ./
# pyproject.toml bounds the versions.
# hadolint ignore=DL3013
RUN mkdir prompt_tuning && touch prompt_tuning/__init__.py README.md LICENSE && \
    pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}"
COPY README.md LICENSE ./
COPY prompt_tuning prompt_tuning
RUN pip install --no-cache-dir --no-deps --force-reinstall .

USER 10001
WORKDIR /home/prompt_tuning
ENTRYPOINT ["prompt-tuning"]
