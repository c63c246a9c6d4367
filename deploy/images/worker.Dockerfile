# The worker, and the servers of the demo swarm: docker build -f deploy/images/worker.Dockerfile .
#
# TORCH_INDEX: address of the package index that has the build of torch to install, for the CPU or one version of CUDA;
#   empty: whatever pip's own index has. PyTorch's installation page lists them.
# PETALS, CONSTRAINTS: another Petals, as pip understands it, and the file in this folder with the versions that it needs;
#   empty: the one of constraints.txt.
# EXTRAS: further groups of packages from pyproject.toml, such as tracing. /app/sbom.cdx.json: all that the image holds.

FROM docker.io/library/python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG CONSTRAINTS=constraints.txt
ARG PETALS=""
ARG EXTRAS=""
WORKDIR /app
COPY pyproject.toml ./
COPY ${CONSTRAINTS} constraints.txt
COPY deploy/__init__.py deploy/requirements.py deploy/torch_build.py deploy/
RUN python -m deploy.requirements worker ${EXTRAS} > /requirements.txt \
    && python -m venv --without-pip /venv \
    && PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" \
        python -m pip --python /venv/bin/python install --no-cache-dir -r /requirements.txt -c constraints.txt \
    && /venv/bin/python -m deploy.torch_build "${TORCH_INDEX}"
# Its metadata asks for a hivemind that no wheel exists of.
RUN python -m pip --python /venv/bin/python install --no-cache-dir --no-deps \
        "${PETALS:-$(grep '^petals==' constraints.txt)}"
COPY shared shared
COPY worker worker
COPY deploy deploy
RUN /venv/bin/python -m deploy.sbom corolla-worker > sbom.cdx.json
# The root file system is read-only when it runs: nothing can be compiled then.
RUN rm constraints.txt pyproject.toml && python -m compileall -q shared worker deploy

FROM docker.io/library/python:3.11-slim-bookworm
# HOME is for libraries that insist on one. Weights from a hub are kept in /models, which may be a volume.
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/models/huggingface \
    PETALS_CACHE=/models/petals \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Some libraries ask for the name of their user.
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin corolla \
    && install -d -o 10001 -g 10001 /models /swarm /peers
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
VOLUME /models
# Ready: the broker knows this worker. Loading takes its time, and the embeddings of a large model must be fetched first.
HEALTHCHECK --interval=15s --timeout=10s --start-period=600s --retries=3 CMD ["python", "-m", "worker.health"]
CMD ["python", "-m", "worker"]
