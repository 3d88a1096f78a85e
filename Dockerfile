# One image for web processes, workers and `migrate`: the command makes the difference.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --uid 10001 --no-create-home halting
WORKDIR /opt/halting

COPY requirements.txt .
RUN pip install -r requirements.txt

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
