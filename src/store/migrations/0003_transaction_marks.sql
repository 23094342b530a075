-- A database that crashes gives the number of a transaction that it had not yet written down to another one: what became of a COMMIT that was
-- not answered is found by a mark that is never used again.

ALTER TABLE events ADD COLUMN mark uuid, DROP COLUMN xid;

-- As before, and stores the mark that each event brings.
CREATE OR REPLACE FUNCTION append_events(happened jsonb, changed uuid[], at_node text)
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
      INSERT INTO events (revision, index, mark, time, node, service, service_uid, generation, actor, request_id, message, body, after)
      SELECT r, e.place - 1, (e.event ->> 'mark')::uuid, clock_timestamp(), at_node, e.event ->> 'service', (e.event ->> 'serviceUid')::uuid,
             (e.event ->> 'generation')::bigint, e.event ->> 'actor', e.event ->> 'requestId', e.event ->> 'message', e.event -> 'body',
             COALESCE(e.event -> 'after', s.image)
        FROM jsonb_array_elements(happened) WITH ORDINALITY AS e (event, place)
        LEFT JOIN stamped s ON s.uid = (e.event ->> 'serviceUid')::uuid
       ORDER BY e.place
    )
    SELECT r, s.uid, s.image FROM (VALUES (1)) AS one LEFT JOIN stamped s ON true;
END
$$;
