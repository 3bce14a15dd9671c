//! What reaches Slack, Discord and webhooks, and what does not.
