# The service in a container:
#   docker build -t menura .
#   docker run -p 127.0.0.1:7865:7865 -v menura:/data -e MENURA_TOKEN='a long secret' menura
# That has torch's CUDA build, for NVIDIA GPUs (run with --gpus all) and CPUs. For CPUs alone, gigabytes smaller, give
# the index of torch's CPU builds, which https://pytorch.org names:
#   docker build -t menura --build-arg TORCH_INDEX=... .
FROM python:3.12-slim AS build
ARG TORCH=torch
ARG TORCH_INDEX=
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/menura
ENV PATH=/opt/menura/bin:$PATH
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY src /src/src
RUN pip install --no-cache-dir "/src[serve,media]"

FROM python:3.12-slim
COPY --from=build /opt/menura /opt/menura
RUN useradd --system --uid 10001 --home-dir /data --create-home menura
USER menura
ENV PATH=/opt/menura/bin:$PATH MENURA_HOME=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 7865
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7865/readyz', timeout=4)"]
ENTRYPOINT ["menura", "serve", "--host", "0.0.0.0"]
