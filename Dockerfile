# An image for NVIDIA GPUs: docker build -t deltactl . && docker run --gpus all -v DATA:/data deltactl doctor
#
# CUDA comes with torch's own packages, so that no CUDA image is needed below; the driver is the machine's. For a driver
# of CUDA 12: --build-arg EXTRAS=gpu-cuda12,cluster and --build-arg TORCH_INDEX=… (docs/install.md).
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# torch.compile calls a C compiler on every machine it runs on.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*

ARG EXTRAS=gpu,cluster
ARG TORCH_INDEX=
COPY . /src
RUN PIP_EXTRA_INDEX_URL=${TORCH_INDEX} pip install --no-cache-dir "/src[${EXTRAS}]" && rm -r /src

# "video" lets DALI reach the decoder of the card (NVDEC).
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
ENV DELTACTL_HOME=/data/workspace HF_HOME=/data/huggingface
RUN useradd --create-home --uid 1000 deltactl && mkdir /data && chown deltactl /data
USER deltactl
WORKDIR /data
RUN deltactl --help && deltactl doctor
ENTRYPOINT ["deltactl"]
CMD ["--help"]
