//! Hooks: where other services send their webhooks (`--hook`).

mod delivery;
mod settings;

use std::sync::Arc;

use parking_lot::RwLock;
use subtle::ConstantTimeEq;
use tracing::warn;

pub use self::delivery::{Delivery, Unfit};
use self::settings::SharedHookSettings;
pub use self::settings::{HookList, HookSettings};
use crate::auth::signature::{Scheme, VerifyingKey, verifying_key};
use crate::error::hinted;
use crate::secret::Secret;

/// All hooks, with the secrets that SIGHUP reads again.
pub struct Hooks(Vec<Hook>);

pub struct Hook {
    pub settings: SharedHookSettings,
    secrets: RwLock<Arc<HookSecrets>>,
}

#[derive(Debug)]
pub struct HookSecrets {
    pub keys: Vec<VerifyingKey>,
    verify_token: Option<Secret>,
}

impl HookSecrets {
    fn read(settings: &HookSettings) -> anyhow::Result<HookSecrets> {
        let key_of = |path: &std::path::PathBuf| {
            verifying_key(&settings.scheme, &Secret::read(path)?).map_err(|expected| {
                let problem = format!("cannot use `{}` for the hook `{}`", path.display(), settings.name);
                hinted(problem, expected)
            })
        };
        Ok(HookSecrets {
            keys: settings.secret_files.iter().map(key_of).collect::<anyhow::Result<_>>()?,
            verify_token: settings.verify_token_file.as_deref().map(Secret::read).transpose()?,
        })
    }

    /// Whether Meta knows the token that it was given for this hook.
    pub fn is_verify_token(&self, given: &str) -> bool {
        let expected = self.verify_token.as_ref();
        expected.is_some_and(|expected| expected.expose().as_bytes().ct_eq(given.as_bytes()).into())
    }
}

impl Hooks {
    /// # Errors
    /// Two hooks have one name, or a secret cannot be used.
    pub fn load(list: HookList) -> anyhow::Result<Hooks> {
        let mut hooks: Vec<Hook> = Vec::new();
        for settings in list.0 {
            let name = &settings.name;
            if hooks.iter().any(|hook| hook.settings.name == *name) {
                let problem = format!("two hooks have the name `{name}`");
                return Err(hinted(
                    problem,
                    "give each a name of its own; one may have several secret files",
                ));
            }
            if matches!(settings.scheme, Scheme::Unverified) {
                warn!(
                    "the hook `{name}` verifies nothing: anyone who reaches this port can store events through it"
                );
            }
            let secrets = RwLock::new(Arc::new(HookSecrets::read(&settings)?));
            hooks.push(Hook { settings, secrets });
        }
        Ok(Hooks(hooks))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, name: &str) -> Option<&Hook> {
        self.0.iter().find(|hook| hook.settings.name == name)
    }

    /// Reads all secrets again. After an error the previous ones stay in use.
    pub fn reload(&self) -> anyhow::Result<()> {
        let secrets: Vec<HookSecrets> =
            self.0.iter().map(|hook| HookSecrets::read(&hook.settings)).collect::<anyhow::Result<_>>()?;
        for (hook, secrets) in self.0.iter().zip(secrets) {
            *hook.secrets.write() = Arc::new(secrets);
        }
        Ok(())
    }
}

impl Hook {
    pub fn secrets(&self) -> Arc<HookSecrets> {
        Arc::clone(&self.secrets.read())
    }
}
