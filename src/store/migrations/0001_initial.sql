-- The first schema. One row counts the committed transactions; every event carries the number of its own.

CREATE TABLE store (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  store_uid uuid NOT NULL DEFAULT gen_random_uuid(),
  head bigint NOT NULL DEFAULT 0,
  -- Every event after this revision is kept; of those up to it, only the last ones of each service.
  compacted bigint NOT NULL DEFAULT 0,
  -- Up to here the events that are no longer kept are deleted.
  swept bigint NOT NULL DEFAULT 0,
  CHECK (swept <= compacted AND compacted <= head)
) WITH (fillfactor = 10);

INSERT INTO store DEFAULT VALUES;

CREATE TABLE services (
  uid uuid PRIMARY KEY,
  name text NOT NULL,
  name_key text COLLATE "C" NOT NULL CONSTRAINT services_name_unique UNIQUE,
  spec jsonb NOT NULL,
  oauth_client_id text NOT NULL CONSTRAINT services_oauth_client_id_unique UNIQUE,
  api_token_sealed bytea,
  wish text NOT NULL CHECK (wish IN ('running', 'stopped', 'deleted')),
  generation bigint NOT NULL DEFAULT 1,
  version bigint NOT NULL DEFAULT 1,
  status jsonb NOT NULL,
  set_name text NOT NULL DEFAULT '',
  assigned_node text,
  epoch bigint NOT NULL DEFAULT 0,
  revision bigint NOT NULL DEFAULT 0,
  create_time timestamptz NOT NULL DEFAULT now(),
  update_time timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

CREATE INDEX services_set ON services (set_name) WHERE set_name <> '';

CREATE TABLE instances (
  id uuid PRIMARY KEY,
  service text NOT NULL,
  service_uid uuid NOT NULL,
  generation bigint NOT NULL,
  node text NOT NULL,
  epoch bigint NOT NULL DEFAULT 0,
  state text NOT NULL CHECK (state IN ('created', 'running', 'stopping', 'ended')),
  boot_id text,
  shim_pid integer,
  shim_start_time text,
  pid integer,
  create_time timestamptz NOT NULL,
  start_time timestamptz,
  ready_time timestamptz,
  exit jsonb,
  CHECK ((state = 'ended') = (exit IS NOT NULL))
);

-- Whatever happens, a service has one instance that may be alive.
CREATE UNIQUE INDEX instances_one_live ON instances (service_uid) WHERE state <> 'ended';
CREATE INDEX instances_of_service ON instances (service_uid, create_time DESC, id DESC);
CREATE INDEX instances_by_time ON instances (create_time DESC, id DESC);

CREATE TABLE routes (
  service_uid uuid PRIMARY KEY REFERENCES services (uid),
  service text NOT NULL,
  prefix text NOT NULL CONSTRAINT routes_prefix_unique UNIQUE,
  target text NOT NULL,
  state text NOT NULL CHECK (state IN ('pending', 'programmed', 'degraded', 'blocked', 'removing')),
  generation bigint NOT NULL,
  programmed_generation bigint NOT NULL,
  proxy text NOT NULL,
  reason text NOT NULL,
  message text NOT NULL,
  transition_time timestamptz NOT NULL,
  confirm_time timestamptz
);

CREATE TABLE tokens (
  id uuid PRIMARY KEY,
  digest bytea NOT NULL CONSTRAINT tokens_digest_unique UNIQUE,
  service_uid uuid REFERENCES services (uid) ON DELETE CASCADE,
  instance_id uuid,
  hint text NOT NULL,
  scopes text[] NOT NULL,
  note text NOT NULL,
  source text NOT NULL CHECK (source IN ('issued', 'supplied', 'instance', 'bootstrap')),
  created_by text NOT NULL,
  create_time timestamptz NOT NULL,
  expire_time timestamptz,
  revoke_time timestamptz,
  last_used_time timestamptz,
  replaced_by uuid
) WITH (fillfactor = 70);

CREATE INDEX tokens_of_service ON tokens (service_uid);

CREATE TABLE events (
  revision bigint NOT NULL,
  index integer NOT NULL,
  -- The transaction in the words of Postgres: what became of one whose COMMIT was not answered.
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  time timestamptz NOT NULL,
  node text NOT NULL,
  service text,
  service_uid uuid,
  generation bigint,
  actor text NOT NULL,
  request_id text,
  message text NOT NULL,
  body jsonb NOT NULL,
  after jsonb,
  PRIMARY KEY (revision, index)
);

CREATE INDEX events_of_service ON events (service_uid, revision) WHERE service_uid IS NOT NULL;

CREATE TABLE requests (
  principal text NOT NULL,
  method text NOT NULL,
  request_id uuid NOT NULL,
  hash text NOT NULL,
  response bytea,
  expire_time timestamptz NOT NULL,
  PRIMARY KEY (principal, method, request_id)
);

CREATE INDEX requests_by_expiry ON requests (expire_time);

-- A service as the API shows it: what reads return and what events keep.
CREATE FUNCTION service_image(s services) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object(
    'name', s.name, 'uid', s.uid, 'spec', s.spec, 'wish', s.wish, 'generation', s.generation, 'version', s.version,
    'status', s.status, 'revision', s.revision::text, 'createTime', s.create_time, 'updateTime', s.update_time,
    'setName', s.set_name, 'route', (SELECT to_jsonb(r) FROM routes r WHERE r.service_uid = s.uid)
  )
$$;

-- The last statement of every write: raises the revision, stamps the changed services and logs what happened. The counter's row is locked
-- from here to the commit only, and always after the rows of services, so that writers cannot deadlock on it.
CREATE FUNCTION append_events(happened jsonb, changed uuid[], at_node text)
RETURNS TABLE (revision bigint, uid uuid, image jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  r bigint;
BEGIN
  PERFORM FROM services s WHERE s.uid = ANY (changed) ORDER BY s.name_key FOR NO KEY UPDATE;
  UPDATE store SET head = head + 1 RETURNING head INTO r;
  PERFORM pg_notify('steward', r::text);
  RETURN QUERY
    WITH stamped AS (
      UPDATE services s SET revision = r WHERE s.uid = ANY (changed) RETURNING s.uid, service_image(s) AS image
    ), logged AS (
      INSERT INTO events (revision, index, time, node, service, service_uid, generation, actor, request_id, message, body, after)
      SELECT r, e.place - 1, clock_timestamp(), at_node, e.event ->> 'service', (e.event ->> 'serviceUid')::uuid,
             (e.event ->> 'generation')::bigint, e.event ->> 'actor', e.event ->> 'requestId', e.event ->> 'message', e.event -> 'body',
             COALESCE(e.event -> 'after', s.image)
        FROM jsonb_array_elements(happened) WITH ORDINALITY AS e (event, place)
        LEFT JOIN stamped s ON s.uid = (e.event ->> 'serviceUid')::uuid
       ORDER BY e.place
    )
    SELECT r, s.uid, s.image FROM (VALUES (1)) AS one LEFT JOIN stamped s ON true;
END
$$;
