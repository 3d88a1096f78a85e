#!/bin/sh
# Create the role halting, which is no superuser, and its database. The image of PostgreSQL runs this
# when its volume is empty. Elsewhere, as a superuser of PostgreSQL:
#   HALTING_DATABASE_PASSWORD=... sh create-halting.sh
set -eu

psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" \
     --dbname "${POSTGRES_DB:-postgres}" <<'END'
\getenv password HALTING_DATABASE_PASSWORD
CREATE ROLE halting LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
CREATE DATABASE halting OWNER halting;
REVOKE CONNECT ON DATABASE halting FROM PUBLIC;
END
