# One image for web processes, workers and `migrate`: the command makes the difference.
# A tag moves. To build from the same image each time, name it with its digest:
#   docker buildx imagetools inspect python:3.13-slim
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:... .
ARG PYTHON_IMAGE=python:3.13-slim
FROM ${PYTHON_IMAGE}

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --uid 10001 --no-create-home halting
WORKDIR /opt/halting

COPY requirements.txt .
RUN pip install --require-hashes -r requirements.txt

COPY manage.py ./
COPY agents agents
COPY project project
COPY runs runs
RUN python -m compileall -q agents project runs

USER halting
EXPOSE 8000 9000
# No shell in between: it would not pass the SIGTERM on.
ENTRYPOINT ["python", "manage.py"]
CMD ["runserver", "0.0.0.0:8000", "--noreload"]
