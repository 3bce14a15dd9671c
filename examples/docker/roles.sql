-- A role for consume, with these privileges and no others. Running this again changes nothing but the role's password.
\set ON_ERROR_STOP on
\set password `cat "$DB_PASSWORD_FILE"`
SELECT 'CREATE ROLE eventctl LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'eventctl') \gexec
ALTER ROLE eventctl PASSWORD :'password';
GRANT SELECT ON eventctl_schema TO eventctl;
GRANT SELECT, INSERT ON events TO eventctl;
GRANT SELECT, UPDATE ON last_event TO eventctl;
GRANT SELECT, INSERT ON idempotency_keys TO eventctl;
GRANT SELECT, INSERT ON signing_key TO eventctl;
GRANT SELECT, INSERT, UPDATE, DELETE ON refresh_tokens TO eventctl;
GRANT SELECT, INSERT, UPDATE ON deliveries TO eventctl;
GRANT SELECT, UPDATE ON outbox_lock TO eventctl;
GRANT SELECT, INSERT, UPDATE ON alert_channels TO eventctl;
GRANT SELECT, INSERT, UPDATE, DELETE ON subscriptions TO eventctl;
GRANT SELECT, INSERT, UPDATE, DELETE ON subscription_events TO eventctl;
GRANT SELECT, INSERT, UPDATE, DELETE ON subscription_claims TO eventctl;
