{{- define "jobrunner.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "jobrunner.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "jobrunner.labels" -}}
{{ include "jobrunner.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "jobrunner.image" -}}
{{- $image := printf "%s:%s" (required "image.repository is required" .Values.image.repository) (default .Chart.AppVersion .Values.image.tag) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $image .Values.image.digest -}}
{{- else -}}
{{- $image -}}
{{- end -}}
{{- end -}}

{{- define "jobrunner.caddyfile" -}}
{
	# Only from within the pod: the probes and kubectl exec.
	admin localhost:2019
	auto_https off
	grace_period 5s

	jobrunner {
		postgres {{ required "postgres.url is required" .Values.postgres.url | quote }}
		postgres_password {file./run/secrets/jobrunner/{{ .Values.postgres.passwordKey }}}
{{- if .Values.postgres.databases }}
		databases {{ join " " .Values.postgres.databases }}
{{- end }}
{{- if .Values.odoo.service }}
		site http://odoo.internal
{{- else if .Values.odoo.upstreams }}
		upstream {{ join " " .Values.odoo.upstreams }}
{{- else }}
{{- fail "odoo.upstreams or odoo.service is required" }}
{{- end }}
		channels {{ .Values.channels }}
{{- if .Values.odoo.host }}
		driver odoo {
			host {{ .Values.odoo.host }}
		}
{{- end }}
		shutdown_timeout {{ .Values.shutdownTimeoutSeconds }}s
{{- if .Values.extraOptions }}
{{ .Values.extraOptions | trim }}
{{- end }}
	}
}

# For Prometheus. Reachable only inside the cluster.
:9180 {
	metrics /metrics
}

# The dashboard, for those who may forward a port to the pod.
http://localhost:9181 {
	bind 127.0.0.1
	jobrunner_dashboard
}
{{- if .Values.odoo.service }}

# Nothing sends requests here: it says where Odoo is.
http://odoo.internal {
	bind 127.0.0.1
	jobrunner_guard
	reverse_proxy {
		dynamic a {{ .Values.odoo.service }} {{ .Values.odoo.port }}
	}
}
{{- end }}
{{- end -}}
