# The package with its programs, for CPUs, GPUs or TPUs:
#   docker build --build-arg EXTRA=tpu,gcs --tag prompt-tuning:tpu .
#   docker run prompt-tuning:tpu train --help
FROM python:3.11-slim

# Extras of the package: gpu, tpu, several as in gpu,gcs, or none for CPUs.
ARG EXTRA=""

ENV PYTHONUNBUFFERED=1
# What NVIDIA's container runtime hands in; without it they mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN useradd --create-home prompt_tuning
WORKDIR /home/prompt_tuning/source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY prompt_tuning prompt_tuning
RUN pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}"

USER prompt_tuning
WORKDIR /home/prompt_tuning
ENTRYPOINT ["prompt-tuning"]
