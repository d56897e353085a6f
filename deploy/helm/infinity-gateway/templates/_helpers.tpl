{{- define "gateway.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- /* 45 + "-infinity-" + an ordinal stay below the 63 of a DNS label. */ -}}
{{- $name | trunc 45 | trimSuffix "-" -}}
{{- end }}

{{- define "gateway.infinity" -}}
{{ include "gateway.name" . }}-infinity
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "gateway.infinitySelector" -}}
app.kubernetes.io/name: infinity
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: infinity
{{- end }}

{{- define "gateway.secret" -}}
{{- if .Values.secret.existing }}{{ .Values.secret.existing }}{{ else if .Values.secret.values }}{{ include "gateway.name" . }}{{ end -}}
{{- end }}

{{- define "gateway.keysSecret" -}}
{{- if .Values.keys.existing }}{{ .Values.keys.existing }}{{ else if .Values.keys.list }}{{ include "gateway.name" . }}-keys{{ end -}}
{{- end }}

{{- /* The configuration as the gateway gets it. */ -}}
{{- define "gateway.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if include "gateway.keysSecret" . }}{{ $_ := set $config.gateway "keys_file" "/etc/infinity-gateway/keys/keys.yaml" }}{{ end -}}
{{- with include "gateway.discovered" . }}{{ $_ := set $config.gateway "discovery" (merge dict (dict "dns" .) ($config.gateway.discovery | default dict)) }}{{ end -}}
{{- toYaml $config -}}
{{- end }}

{{- /* Infinity brought along, by the name of its headless Service: however many there are, they are found. Those that KEDA
has not started would be servers that are down for the gateway if each were named. */ -}}
{{- define "gateway.discovered" -}}
{{- if .Values.infinity.enabled }}{{ include "gateway.infinity" . }}:{{ .Values.infinity.port }}{{ end -}}
{{- end }}

{{- /* Ports of all servers, as a JSON list. */ -}}
{{- define "gateway.serverPorts" -}}
{{- $bases := .Values.servers -}}
{{- range .Values.config.model_list -}}
{{- $bases = concat $bases (list .litellm_params.api_base) (.litellm_params.api_bases | default list) -}}
{{- end -}}
{{- $ports := .Values.networkPolicy.serverPorts -}}
{{- range append (.Values.config.model_list | default list) .Values.config.gateway -}}
{{- with (.discovery | default dict).dns }}{{ $ports = append $ports (regexFind "[0-9]+$" . | int) }}{{ end -}}
{{- end -}}
{{- if .Values.infinity.enabled }}{{ $ports = append $ports (int .Values.infinity.port) }}{{ end -}}
{{- range $bases -}}
{{- if and . (hasPrefix "http" .) -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- $ports = append $ports (int $port) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}

{{- define "gateway.check" -}}
{{- $gateway := .Values.config.gateway -}}
{{- $general := .Values.config.general_settings | default dict -}}
{{- $dns := ($gateway.discovery | default dict).dns -}}
{{- $learned := or .Values.servers .Values.infinity.enabled -}}
{{- if not (or $learned .Values.config.model_list $dns) -}}
{{- fail "there is nothing to serve: give servers, infinity.enabled=true or config.model_list" -}}
{{- end -}}
{{- if and .Values.infinity.enabled $dns -}}
{{- fail "infinity.enabled sets config.gateway.discovery.dns to its own Service: give one of them" -}}
{{- end -}}
{{- if and $learned .Values.config.model_list -}}
{{- fail "servers and infinity.enabled stand for models that are learned, config.model_list for those that are listed: give one of them" -}}
{{- end -}}
{{- if not (or (include "gateway.secret" .) (include "gateway.keysSecret" .) $general.master_key $gateway.keys $gateway.allow_anonymous) -}}
{{- fail "anybody could call: give secret.existing (or secret.values) with GATEWAY_MASTER_KEY, or keys; config.gateway.allow_anonymous=true says that this is meant" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.enabled needs ingress.host" }}{{ end -}}
{{- if and .Values.keda.enabled (not (or .Values.infinity.enabled .Values.keda.target.name)) -}}
{{- fail "keda.enabled needs infinity.enabled=true or the name of what it scales in keda.target.name" -}}
{{- end -}}
{{- end }}

{{- define "gateway.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
