//! The routes: what each path is called, which methods it has, and whether it needs authentication.

use hyper::Method;
use hyper::http::request::Parts;

use crate::auth::scope::Scope;
use crate::core::name::is_name;
use crate::core::query::parse_position;

const READS: &str = "GET, HEAD";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Page,
    Events,
    /// With the id of the event.
    Event(i64),
    Stream,
    /// Which one the path says.
    Hook,
    Subscriptions,
    /// Of which one the path says.
    Subscription(SubscriptionPart),
    HealthAlert,
    Token,
    Health,
    Ready,
    Metrics,
    OpenApi,
}

/// What is below a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionPart {
    Itself,
    Claim,
    Acknowledge,
    Reject,
    Extend,
    Parked,
}

impl SubscriptionPart {
    fn of(path: &str) -> Option<SubscriptionPart> {
        Some(match path {
            "" => SubscriptionPart::Itself,
            "claim" => SubscriptionPart::Claim,
            "ack" => SubscriptionPart::Acknowledge,
            "nack" => SubscriptionPart::Reject,
            "extend" => SubscriptionPart::Extend,
            "parked" => SubscriptionPart::Parked,
            _ => return None,
        })
    }
}

impl Route {
    const ALL: [Route; 18] = [
        Route::Page,
        Route::Events,
        Route::Event(1),
        Route::Stream,
        Route::Hook,
        Route::Subscriptions,
        Route::Subscription(SubscriptionPart::Itself),
        Route::Subscription(SubscriptionPart::Claim),
        Route::Subscription(SubscriptionPart::Acknowledge),
        Route::Subscription(SubscriptionPart::Reject),
        Route::Subscription(SubscriptionPart::Extend),
        Route::Subscription(SubscriptionPart::Parked),
        Route::HealthAlert,
        Route::Token,
        Route::Health,
        Route::Ready,
        Route::Metrics,
        Route::OpenApi,
    ];

    /// The route of a path, with or without a slash at its end.
    pub fn of(path: &str) -> Option<Route> {
        if path == Route::Page.path() {
            return Some(Route::Page);
        }
        if Route::hook_name(path).is_some() {
            return Some(Route::Hook);
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        if let Some((_, part)) = subscription_of(path) {
            return SubscriptionPart::of(part).map(Route::Subscription);
        }
        let id = path.strip_prefix(Route::Events.path()).and_then(|rest| rest.strip_prefix('/'));
        match id.and_then(parse_position) {
            Some(id) => Some(Route::Event(id)),
            None => Route::ALL.into_iter().find(|route| {
                let has_name = matches!(route, Route::Event(_) | Route::Hook | Route::Subscription(_));
                route.path() == path && !has_name && *route != Route::Page
            }),
        }
    }

    /// The name of the hook of a path.
    pub fn hook_name(path: &str) -> Option<&str> {
        let name = path.strip_prefix("/hook/")?;
        let name = name.strip_suffix('/').unwrap_or(name);
        (!name.is_empty() && !name.contains('/')).then_some(name)
    }

    /// The name of the subscription of a path.
    pub fn subscription_name(path: &str) -> Option<&str> {
        subscription_of(path.strip_suffix('/').unwrap_or(path)).map(|(name, _)| name)
    }

    /// The path as OpenAPI, the metrics and the log name it.
    pub fn path(self) -> &'static str {
        match self {
            Route::Page => "/",
            Route::Events => "/event",
            Route::Event(_) => "/event/{id}",
            Route::Stream => "/event/stream",
            Route::Hook => "/hook/{name}",
            Route::Subscriptions => "/subscription",
            Route::Subscription(SubscriptionPart::Itself) => "/subscription/{name}",
            Route::Subscription(SubscriptionPart::Claim) => "/subscription/{name}/claim",
            Route::Subscription(SubscriptionPart::Acknowledge) => "/subscription/{name}/ack",
            Route::Subscription(SubscriptionPart::Reject) => "/subscription/{name}/nack",
            Route::Subscription(SubscriptionPart::Extend) => "/subscription/{name}/extend",
            Route::Subscription(SubscriptionPart::Parked) => "/subscription/{name}/parked",
            Route::HealthAlert => "/api/v1/health-alert",
            Route::Token => "/token",
            Route::Health => "/health",
            Route::Ready => "/ready",
            Route::Metrics => "/metrics",
            Route::OpenApi => "/openapi.json",
        }
    }

    /// As the header `Allow` lists them.
    pub fn methods(self) -> &'static str {
        match self {
            Route::Events => "GET, HEAD, OPTIONS, POST",
            Route::Event(_) => "DELETE, GET, HEAD",
            Route::Hook => "GET, OPTIONS, POST",
            Route::Subscription(SubscriptionPart::Itself) => "DELETE, GET, HEAD, PUT",
            Route::Subscription(SubscriptionPart::Parked) => "GET, HEAD, POST",
            Route::Subscription(_) | Route::HealthAlert | Route::Token => "POST",
            _ => READS,
        }
    }

    pub fn allows(self, method: &Method) -> bool {
        self.methods().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// The scopes of which a request needs one; none where it needs no token.
    pub fn scopes(self, method: &Method) -> &'static [Scope] {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match self {
            Route::Event(_) if *method == Method::DELETE => &[Scope::Admin],
            Route::Events if !is_read => &[Scope::Write],
            Route::Events | Route::Event(_) | Route::Stream | Route::Metrics => &[Scope::Read],
            Route::HealthAlert => &[Scope::Write],
            Route::Subscriptions => &[Scope::Read, Scope::Work, Scope::Admin],
            Route::Subscription(SubscriptionPart::Itself) if is_read => {
                &[Scope::Read, Scope::Work, Scope::Admin]
            }
            Route::Subscription(SubscriptionPart::Itself) => &[Scope::Admin],
            Route::Subscription(_) => &[Scope::Work],
            Route::Page | Route::Hook | Route::Token | Route::Health | Route::Ready | Route::OpenApi => &[],
        }
    }

    /// Whether requests need no token: those of a hook are verified by its scheme.
    pub fn is_open(self) -> bool {
        self.scopes(&Method::GET).is_empty()
    }

    /// Whether load balancers and supervisors ask for it, under whatever host they know the service by.
    pub fn is_probe(self) -> bool {
        matches!(self, Route::Health | Route::Ready)
    }
}

/// The name of a subscription in a path, and what follows it.
fn subscription_of(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/subscription/")?;
    let (name, part) = match path.split_once('/') {
        None => (path, ""),
        // A second slash names nothing.
        Some((name, "")) => (name, "/"),
        Some(parts) => parts,
    };
    is_name(name).then_some((name, part))
}

/// What a request asks for, as metrics and the log name it: one of a fixed few, whatever the client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    pub route: &'static str,
    pub method: &'static str,
}

impl Target {
    pub fn of(method: &Method, path: &str) -> Target {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        Target { route: Route::of(path).map_or("other", Route::path), method }
    }
}

/// How many segments a request's path has. References in responses are relative, because a proxy may have removed a
/// prefix of the path.
#[derive(Debug, Clone, Copy)]
pub struct PathDepth(usize);

impl PathDepth {
    pub fn of(head: &Parts) -> PathDepth {
        PathDepth(head.uri.path().bytes().filter(|byte| *byte == b'/').count())
    }

    /// The reference to an event.
    pub fn event(self, id: i64) -> String {
        let up = "../".repeat(self.0.saturating_sub(1));
        format!("{up}{}/{id}", Route::Events.path().trim_start_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    #[test]
    fn openapi_describes_all_routes_and_no_other() {
        let document: Value = serde_json::from_str(include_str!("routes/openapi.json")).unwrap();
        let described = document["paths"].as_object().unwrap().iter().map(|(path, item)| {
            let methods = item.as_object().unwrap().iter().filter(|(name, _)| {
                ["get", "head", "post", "put", "patch", "delete", "options", "trace"].contains(&name.as_str())
            });
            let mut methods: Vec<String> = methods.map(|(name, _)| name.to_uppercase()).collect();
            methods.sort();
            (path.as_str(), methods.join(", "))
        });
        let routes = Route::ALL.map(|route| (route.path(), route.methods().to_owned()));
        assert_eq!(BTreeMap::from_iter(described), BTreeMap::from(routes));
    }

    #[test]
    fn openapi_names_the_scopes_of_every_operation() {
        let document: Value = serde_json::from_str(include_str!("routes/openapi.json")).unwrap();
        for route in Route::ALL {
            for method in route.methods().split(", ") {
                let operation = &document["paths"][route.path()][method.to_lowercase()];
                let security = operation["security"].as_array().unwrap();
                let scopes: Vec<&str> =
                    route.scopes(&method.parse().unwrap()).iter().map(|scope| scope.name()).collect();
                for scheme in ["bearer", "login"] {
                    let named = security.iter().filter_map(|one| one.get(scheme)?.get(0)?.as_str());
                    assert_eq!(named.collect::<Vec<_>>(), scopes, "{method} {}", route.path());
                }
            }
        }
    }

    #[test]
    fn a_path_has_one_route_with_or_without_a_slash_at_its_end() {
        for (path, route) in [
            ("/", Some(Route::Page)),
            ("//", None),
            ("", None),
            ("/event", Some(Route::Events)),
            ("/event/", Some(Route::Events)),
            ("/event//", None),
            ("/event/7", Some(Route::Event(7))),
            ("/event/7/", Some(Route::Event(7))),
            ("/event/1", Some(Route::Event(1))),
            ("/event/-1", None),
            ("/event/{id}", None),
            ("/event/stream", Some(Route::Stream)),
            ("/EVENT", None),
            ("/hook/a", Some(Route::Hook)),
            ("/hook/a/", Some(Route::Hook)),
            ("/hook", None),
            ("/hook/", None),
            ("/hook//", None),
            ("/hook/a/b", None),
            ("/subscription", Some(Route::Subscriptions)),
            ("/subscription/", Some(Route::Subscriptions)),
            ("/subscription/a.b", Some(Route::Subscription(SubscriptionPart::Itself))),
            ("/subscription/a/", Some(Route::Subscription(SubscriptionPart::Itself))),
            ("/subscription/a/ack/", Some(Route::Subscription(SubscriptionPart::Acknowledge))),
            ("/subscription/a/ack/b", None),
            ("/subscription/a//", None),
            ("/subscription/.a", None),
            ("/subscription/a%20b", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn events_are_referred_to_from_where_the_request_was_made() {
        assert_eq!(PathDepth(1).event(7), "event/7");
        assert_eq!(PathDepth(3).event(7), "../../event/7");
    }
}
