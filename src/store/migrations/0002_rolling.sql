-- Two instances of a service may live during a rolling update, one in each role; and failures can be forgotten on request.

ALTER TABLE services ADD COLUMN resets bigint NOT NULL DEFAULT 0;

ALTER TABLE instances ADD COLUMN role text NOT NULL DEFAULT 'current' CHECK (role IN ('current', 'replacement', 'retiring'));
ALTER TABLE instances ALTER COLUMN role DROP DEFAULT;

-- Whatever happens, a service has one instance of each role that may be alive.
DROP INDEX instances_one_live;
CREATE UNIQUE INDEX instances_one_live ON instances (service_uid, role) WHERE state <> 'ended';

CREATE OR REPLACE FUNCTION service_image(s services) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object(
    'name', s.name, 'uid', s.uid, 'spec', s.spec, 'wish', s.wish, 'generation', s.generation, 'resets', s.resets, 'version', s.version,
    'status', s.status, 'revision', s.revision::text, 'createTime', s.create_time, 'updateTime', s.update_time,
    'setName', s.set_name, 'route', (SELECT to_jsonb(r) FROM routes r WHERE r.service_uid = s.uid)
  )
$$;
