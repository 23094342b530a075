-- Every spec that a service had, to be looked at and to go back to; and services in the order of their times.

CREATE TABLE spec_revisions (
  service_uid uuid NOT NULL REFERENCES services (uid) ON DELETE CASCADE,
  -- The transaction that gave the service this spec.
  revision bigint NOT NULL,
  time timestamptz NOT NULL,
  actor text NOT NULL,
  -- What differs from the spec before, as in an update mask.
  paths jsonb NOT NULL,
  spec jsonb NOT NULL,
  PRIMARY KEY (service_uid, revision)
);

-- The events that change a spec are the only source: what they say and what is kept here cannot differ.
CREATE FUNCTION keep_spec() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO spec_revisions (service_uid, revision, time, actor, paths, spec)
  VALUES (NEW.service_uid, NEW.revision, NEW.time, NEW.actor, COALESCE(NEW.body -> 'paths', '[]'), NEW.after -> 'spec')
  ON CONFLICT DO NOTHING;
  DELETE FROM spec_revisions WHERE service_uid = NEW.service_uid AND revision <=
    (SELECT revision FROM spec_revisions WHERE service_uid = NEW.service_uid ORDER BY revision DESC OFFSET 50 LIMIT 1);
  RETURN NULL;
END
$$;

CREATE TRIGGER events_keep_spec AFTER INSERT ON events FOR EACH ROW
  WHEN (NEW.after IS NOT NULL AND (NEW.body ->> 'type' = 'service_created'
    OR (NEW.body ->> 'type' = 'service_updated' AND NEW.body -> 'paths' <> '[]')))
  EXECUTE FUNCTION keep_spec();

-- What the log still has of the specs of before.
INSERT INTO spec_revisions (service_uid, revision, time, actor, paths, spec)
SELECT e.service_uid, e.revision, e.time, e.actor, COALESCE(e.body -> 'paths', '[]'), e.after -> 'spec'
  FROM (SELECT *, row_number() OVER (PARTITION BY service_uid ORDER BY revision DESC) AS place FROM events
         WHERE after IS NOT NULL
           AND (body ->> 'type' = 'service_created' OR (body ->> 'type' = 'service_updated' AND body -> 'paths' <> '[]'))) e
  JOIN services s ON s.uid = e.service_uid
 WHERE e.place <= 50;

-- A service of which the log has none is as it is since it was last changed.
INSERT INTO spec_revisions (service_uid, revision, time, actor, paths, spec)
SELECT s.uid, s.revision, s.update_time, 'steward', '[]', s.spec FROM services s
 WHERE NOT EXISTS (SELECT FROM spec_revisions r WHERE r.service_uid = s.uid);

-- No write of a status changes either column: their updates stay in place.
CREATE INDEX services_by_create_time ON services (create_time, name_key);
CREATE INDEX services_by_update_time ON services (update_time, name_key);
