# docker build -t dbl . && docker run --rm -v "$PWD/runs:/dbl/runs" dbl train --config configs/digits_dit.yaml
# With a GPU: docker run --gpus all ... (the wheels of PyTorch bring CUDA; the host needs its driver).
FROM python:3.13-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /dbl
# The packages first: they change less often than the code.
COPY pyproject.toml requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .
ENTRYPOINT ["dbl"]
CMD ["--help"]
